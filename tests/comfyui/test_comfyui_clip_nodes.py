"""Every node of core's that takes a CLIP gives the same on ours as on its own."""

import shutil
from collections.abc import Callable

import pytest
import torch
from comfyui_graphs import TOLERANCE, assert_same, core_clip, encode, notes, our_clip, results
from comfyui_server import ComfyUI, Graph, Link

MakeClip = Callable[..., Link]


def model_of(graph: Graph) -> Link:
    return graph.add("CheckpointLoaderSimple", ckpt_name="sd21.safetensors").out(0)


def set_last_layer(graph: Graph, make: MakeClip, layer: int) -> Link:
    clip = graph.add("CLIPSetLastLayer", clip=make(graph), stop_at_clip_layer=layer).out()
    return encode(graph, clip)


def lora(graph: Graph, make: MakeClip, name: str, strength: float = 0.7) -> Link:
    loader = graph.add("LoraLoader", model=model_of(graph), clip=make(graph),
                       lora_name=f"{name}.safetensors", strength_model=1.0,
                       strength_clip=strength)  # fmt: skip
    return encode(graph, loader.out(1))


def two_loras(graph: Graph, make: MakeClip) -> Link:
    clip, model = make(graph), model_of(graph)
    for name, strength in (("kohya", 0.5), ("diffusers", -0.4)):
        node = graph.add("LoraLoader", model=model, clip=clip, lora_name=f"{name}.safetensors",
                         strength_model=1.0, strength_clip=strength)  # fmt: skip
        model, clip = node.out(0), node.out(1)
    return encode(graph, clip)


def merge(graph: Graph, make: MakeClip, node: str, **how: float) -> Link:
    clips = {"clip1": make(graph), "clip2": make(graph, "other.safetensors")}
    return encode(graph, graph.add(node, **clips, **how).out())


def merge_with_core(graph: Graph, make: MakeClip) -> Link:
    clips = {"clip1": make(graph), "clip2": core_clip(graph, "other.safetensors")}
    return encode(graph, graph.add("CLIPMergeSimple", **clips, ratio=0.3).out())


def attention_multiply(graph: Graph, make: MakeClip) -> Link:
    node = graph.add("CLIPAttentionMultiply", clip=make(graph), q=1.2, k=0.9, v=1.1, out=0.8)
    return encode(graph, node.out())


def hook_lora(graph: Graph, make: MakeClip, *, scheduled: bool) -> Link:
    hooks = graph.add("CreateHookLora", lora_name="kohya.safetensors", strength_model=0.0,
                      strength_clip=0.8).out()  # fmt: skip
    if scheduled:
        first = graph.add("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0).out()
        both = graph.add("CreateHookKeyframe", strength_mult=0.2, start_percent=0.5,
                         prev_hook_kf=first).out()  # fmt: skip
        hooks = graph.add("SetHookKeyframes", hooks=hooks, hook_kf=both).out()
    clip = graph.add("SetClipHooks", clip=make(graph), apply_to_conds=True,
                     schedule_clip=scheduled, hooks=hooks).out()  # fmt: skip
    return encode(graph, clip)


def hook_model(graph: Graph, make: MakeClip) -> Link:
    hooks = graph.add("CreateHookModelAsLora", ckpt_name="sd21.safetensors", strength_model=0.0,
                      strength_clip=0.5).out()  # fmt: skip
    clip = graph.add("SetClipHooks", clip=make(graph, "other.safetensors"), apply_to_conds=True,
                     schedule_clip=True, hooks=hooks).out()  # fmt: skip
    return encode(graph, clip)


def tokenizer_options(graph: Graph, make: MakeClip) -> Link:
    node = graph.add("T5TokenizerOptions", clip=make(graph), min_padding=3, min_length=100)
    return encode(graph, node.out())


def refiner(graph: Graph, make: MakeClip) -> Link:
    return graph.add("CLIPTextEncodeSDXLRefiner", clip=make(graph), text="a cat", ascore=6.0,
                     width=512, height=512).out()  # fmt: skip


def controlnet_text(graph: Graph, make: MakeClip) -> Link:
    clip = make(graph)
    first = encode(graph, clip)
    return graph.add("CLIPTextEncodeControlnet", clip=clip, conditioning=first, text="b").out()


def gligen(graph: Graph, make: MakeClip) -> Link:
    clip, stand_in = make(graph), graph.add("StandInsForTest").out(0)
    return graph.add("GLIGENTextBoxApply", conditioning_to=encode(graph, clip), clip=clip,
                     gligen_textbox_model=stand_in, text="a dog", width=64, height=64,
                     x=0, y=0).out()  # fmt: skip


def unprojected(graph: Graph, make: MakeClip) -> Link:
    return graph.add("UnprojectedForTest", clip=make(graph), text="a dog").out()


def average(graph: Graph, make: MakeClip) -> Link:
    clip = make(graph)
    return graph.add("ConditioningAverage", conditioning_to=encode(graph, clip, "a cat"),
                     conditioning_from=encode(graph, clip, "a dog " * 60),
                     conditioning_to_strength=0.4).out()  # fmt: skip


def concat(graph: Graph, make: MakeClip) -> Link:
    clip = make(graph)
    return graph.add("ConditioningConcat", conditioning_to=encode(graph, clip, "a cat"),
                     conditioning_from=encode(graph, clip, "a dog")).out()  # fmt: skip


def combine(graph: Graph, make: MakeClip) -> Link:
    clip = make(graph)
    return graph.add("ConditioningCombine", conditioning_1=encode(graph, clip, "a cat"),
                     conditioning_2=encode(graph, clip, "a dog")).out()  # fmt: skip


def on_conditioning(graph: Graph, make: MakeClip, node: str, **inputs: object) -> Link:
    return graph.add(node, conditioning=encode(graph, make(graph)), **inputs).out()


def mask(graph: Graph, make: MakeClip) -> Link:
    solid = graph.add("SolidMask", value=1.0, width=64, height=64).out()
    return on_conditioning(graph, make, "ConditioningSetMask", mask=solid, strength=1.0,
                           set_cond_area="default")  # fmt: skip


def unclip(graph: Graph, make: MakeClip) -> Link:
    vision = graph.add("StandInsForTest").out(2)
    return on_conditioning(graph, make, "unCLIPConditioning", clip_vision_output=vision,
                           strength=1.0, noise_augmentation=0.0)  # fmt: skip


def control_net(graph: Graph, make: MakeClip) -> Link:
    image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0).out()
    net = graph.add("StandInsForTest").out(1)
    return on_conditioning(graph, make, "ControlNetApply", control_net=net, image=image,
                           strength=1.0)  # fmt: skip


def prompt_control(graph: Graph, make: MakeClip) -> Link:
    text = "a (red:1.3) cat BREAK [SHUFFLE a, b] a dog"
    return graph.add("PCTextEncode", clip=make(graph), text=text).out()


AREA = {"width": 64, "height": 64, "x": 0, "y": 0, "strength": 1.0}

CASES: dict[str, tuple[Callable[[Graph, MakeClip], Link], tuple[str, ...]]] = {
    "CLIPSetLastLayer -1": (lambda g, m: set_last_layer(g, m, -1), ()),
    "CLIPSetLastLayer -2": (lambda g, m: set_last_layer(g, m, -2), ()),
    "CLIPSetLastLayer -12": (lambda g, m: set_last_layer(g, m, -12), ()),
    "CLIPSetLastLayer -24": (lambda g, m: set_last_layer(g, m, -24), ()),
    "LoraLoader kohya": (lambda g, m: lora(g, m, "kohya"), ()),
    "LoraLoader diffusers": (lambda g, m: lora(g, m, "diffusers"), ()),
    "LoraLoader DoRA": (lambda g, m: lora(g, m, "dora"), ()),
    "LoraLoader twice": (two_loras, ()),
    "CLIPMergeSimple": (lambda g, m: merge(g, m, "CLIPMergeSimple", ratio=0.3), ()),
    "CLIPMergeSimple with core's": (merge_with_core, ()),
    "CLIPMergeAdd": (lambda g, m: merge(g, m, "CLIPMergeAdd"), ("CLIPMergeAdd",)),
    "CLIPMergeSubtract": (
        lambda g, m: merge(g, m, "CLIPMergeSubtract", multiplier=0.5), ("CLIPMergeSubtract",)),
    "CLIPAttentionMultiply": (attention_multiply, ("CLIPAttentionMultiply",)),
    "hook LoRA": (lambda g, m: hook_lora(g, m, scheduled=False), ("CreateHookLora",)),
    "hook LoRA scheduled": (lambda g, m: hook_lora(g, m, scheduled=True), ("CreateHookLora",)),
    "hook model as LoRA": (hook_model, ("CreateHookModelAsLora",)),
    "T5TokenizerOptions": (tokenizer_options, ("T5TokenizerOptions",)),
    "CLIPTextEncodeSDXLRefiner": (refiner, ()),
    "CLIPTextEncodeControlnet": (controlnet_text, ("CLIPTextEncodeControlnet",)),
    "GLIGENTextBoxApply": (gligen, ()),
    "unprojected pooled": (unprojected, ()),
    "ConditioningAverage": (average, ()),
    "ConditioningConcat": (concat, ()),
    "ConditioningCombine": (combine, ()),
    "ConditioningSetArea": (
        lambda g, m: on_conditioning(g, m, "ConditioningSetArea", **AREA), ()),
    "ConditioningSetMask": (mask, ()),
    "ConditioningZeroOut": (lambda g, m: on_conditioning(g, m, "ConditioningZeroOut"), ()),
    "ConditioningSetTimestepRange": (
        lambda g, m: on_conditioning(g, m, "ConditioningSetTimestepRange", start=0.0, end=0.5),
        ()),
    "unCLIPConditioning": (unclip, ()),
    "ControlNetApply": (control_net, ()),
    "prompt-control's PCTextEncode": (prompt_control, ("PCTextEncode",)),
}  # fmt: skip


@pytest.mark.parametrize(("build", "nodes"), CASES.values(), ids=CASES)
def test_core_node_does_the_same_with_our_clip(
    comfyui: ComfyUI,
    need: Callable[..., None],
    of_2023: bool,
    request: pytest.FixtureRequest,
    build: Callable[[Graph, MakeClip], Link],
    nodes: tuple[str, ...],
) -> None:
    need(*nodes)
    if build is unprojected:
        skip_without_unprojected(comfyui)
    graph = Graph()
    found = results(comfyui, graph, ours=build(graph, our_clip), core=build(graph, core_clip))
    assert torch.isfinite(found["ours"]["cond0"]).all()
    # Weights of twice the size carry the rounding of two ways to compute attention further.
    tolerance = 1e-4 if nodes == ("CLIPMergeAdd",) else TOLERANCE
    if of_2023 and "CLIPMerge" in request.node.name:
        tolerance = 2e-3  # a merged table in fp32, where ours has the dtype of the rest
    # Ours and 2023's call the projection by different names, so it is not merged.
    unmerged = ("pooled0",) if of_2023 and build is merge_with_core else ()
    assert_same(found["ours"], found["core"], but=unmerged, tolerance=tolerance)
    assert notes(comfyui, "ours") == notes(comfyui, "core")


def skip_without_unprojected(comfyui: ComfyUI) -> None:
    if "unprojected" not in (comfyui.installation / "comfy" / "sd.py").read_text():
        pytest.skip("this ComfyUI's CLIP cannot be asked for an unprojected pooled output")


def test_a_patched_clone_leaves_the_clip_as_it_was(comfyui: ComfyUI) -> None:
    graph = Graph()
    clip = our_clip(graph)
    multiplied = graph.add("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-5).out()
    merged = graph.add("CLIPMergeSimple", clip1=clip, clip2=our_clip(graph, "other.safetensors"),
                       ratio=0.2).out()  # fmt: skip
    found = results(
        comfyui,
        graph,
        merged=encode(graph, merged),
        other_layer=encode(graph, multiplied),
        plain_after=encode(graph, clip),
        reference=encode(graph, core_clip(graph)),
    )
    assert_same(found["plain_after"], found["reference"])
    assert not torch.equal(found["merged"]["cond0"], found["plain_after"]["cond0"])
    assert not torch.equal(found["other_layer"]["cond0"], found["plain_after"]["cond0"])


def test_last_layer_of_23_is_the_penultimate_with_a_warning(comfyui: ComfyUI) -> None:
    graph = Graph()
    clip = our_clip(graph, "23-layers.safetensors")
    last = graph.add("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-1).out()
    found = results(comfyui, graph, last=encode(graph, last), default=encode(graph, clip))
    assert_same(found["last"], found["default"])
    assert "the file has only 23" in comfyui.log_text()
    assert "comes from layer 23 and is not projected: the file has no" in comfyui.log_text()


def test_clipsave_comes_back_through_both_loaders(comfyui: ComfyUI) -> None:
    graph = Graph()
    clip = our_clip(graph, "sd21.ckpt")
    graph.add("CLIPSave", clip=clip, filename_prefix="kept")
    before = results(comfyui, graph, before_save=encode(graph, clip))["before_save"]
    written = [path for path in comfyui.output.glob("kept*") if "clip_h" in path.name]
    written += [path for path in comfyui.output.glob("kept*") if path not in written]
    shutil.move(written[0], comfyui.models / "clip" / "kept.safetensors")
    graph = Graph()
    found = results(comfyui, graph, ours=encode(graph, our_clip(graph, "kept.safetensors")))
    assert_same(found["ours"], before)
    if "clip_h" in written[0].name:  # before May 2025 the file's names were not SD2's
        graph = Graph()
        found = results(comfyui, graph, core=encode(graph, core_clip(graph, "kept.safetensors")))
        assert_same(found["core"], before)


def test_checkpointsave_comes_back_through_both_loaders(comfyui: ComfyUI, of_2023: bool) -> None:
    graph = Graph()
    clip = our_clip(graph)
    graph.add("CheckpointSave", model=model_of(graph), clip=clip,
              vae=graph.add("StandInsForTest").out(3), filename_prefix="whole")  # fmt: skip
    before = results(comfyui, graph, before_save=encode(graph, clip))["before_save"]
    written = next(iter(comfyui.output.glob("whole*.safetensors")))
    shutil.move(written, comfyui.models / "checkpoints" / "sd21-whole.safetensors")
    graph = Graph()
    found = results(
        comfyui,
        graph,
        ours=encode(graph, our_clip(graph, "sd21-whole.safetensors")),
        core=encode(graph, core_clip(graph, "sd21-whole.safetensors")),
    )
    lost = ("pooled0",) if of_2023 else ()
    assert_same(found["ours"], before, but=lost)
    assert_same(found["core"], before, but=lost)
