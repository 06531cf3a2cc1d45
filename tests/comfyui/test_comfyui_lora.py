"""Our LoRA node against core's, which needs a MODEL for it."""

import pytest
import torch
from comfyui_graphs import assert_same, core_clip, encode, our_clip, results
from comfyui_server import ComfyUI, Graph, Link, PromptError


def with_our_node(graph: Graph, clip: Link, name: str, strength: float = 0.7) -> Link:
    node = graph.add("LoadSD2CLIPLora", clip=clip, lora_name=name, strength=strength)
    return encode(graph, node.out())


def with_cores_node(graph: Graph, clip: Link, name: str, strength: float = 0.7) -> Link:
    model = graph.add("CheckpointLoaderSimple", ckpt_name="sd21.safetensors").out()
    node = graph.add("LoraLoader", model=model, clip=clip, lora_name=name, strength_model=1.0,
                     strength_clip=strength)  # fmt: skip
    return encode(graph, node.out(1))


def info(comfyui: ComfyUI, name: str) -> str:
    graph = Graph()
    node = graph.add("LoadSD2CLIPLora", clip=our_clip(graph), lora_name=name, strength=0.7)
    show = graph.add("ShowForTest", text=node.out(1))
    return str(comfyui.run(graph)[show.key]["text"][0])


@pytest.mark.parametrize("name", ["kohya", "kohya-te1", "diffusers", "loha", "lokr", "diff", "full",
                                  "glora", "oft", "set", "extracted"])  # fmt: skip
def test_result_is_load_loras(comfyui: ComfyUI, of_2023: bool, name: str) -> None:
    if of_2023 and name in ("glora", "oft", "set", "extracted"):
        pytest.skip("ComfyUI of 2023 does not know these, or fails on them by itself")
    file = f"{name}.safetensors"
    graph = Graph()
    found = results(
        comfyui,
        graph,
        ours=with_our_node(graph, our_clip(graph), file),
        ours_on_core=with_our_node(graph, core_clip(graph), file),
        core=with_cores_node(graph, our_clip(graph), file),
        without=encode(graph, our_clip(graph)),
    )
    assert_same(found["ours"], found["core"])
    assert_same(found["ours_on_core"], found["core"])
    assert not torch.allclose(found["ours"]["cond0"], found["without"]["cond0"], atol=0.01)


def test_alpha_in_the_header_is_applied_though_core_passes_over_it(comfyui: ComfyUI) -> None:
    """On purpose ours differs from core here: kohya's file is the same with alpha in tensors."""
    graph = Graph()
    found = results(
        comfyui,
        graph,
        header=with_our_node(graph, our_clip(graph), "alpha-in-header.safetensors"),
        tensors=with_cores_node(graph, our_clip(graph), "kohya.safetensors"),
        core=with_cores_node(graph, our_clip(graph), "alpha-in-header.safetensors"),
    )
    assert_same(found["header"], found["tensors"])
    assert not torch.allclose(found["header"]["cond0"], found["core"]["cond0"], atol=0.01)
    report = info(comfyui, "alpha-in-header.safetensors")
    assert "the change is scaled by 0.5. ComfyUI's own LoRA loader does not read alpha" in report


@pytest.mark.parametrize("name", ["peft", "flattened"])
def test_names_that_core_passes_over_give_what_its_diffusers_names_give(
    comfyui: ComfyUI, name: str
) -> None:
    graph = Graph()
    found = results(
        comfyui,
        graph,
        odd=with_our_node(graph, our_clip(graph), f"{name}.safetensors"),
        diffusers=with_our_node(graph, our_clip(graph), "diffusers.safetensors"),
    )
    assert_same(found["odd"], found["diffusers"])


def test_dora_is_load_loras_or_refused(comfyui: ComfyUI) -> None:
    graph = Graph()
    ours = with_our_node(graph, our_clip(graph), "dora.safetensors")
    core = with_cores_node(graph, our_clip(graph), "dora.safetensors")
    if "dora_scale" not in (comfyui.installation / "comfy" / "lora.py").read_text():
        with pytest.raises(PromptError, match="too old"):
            results(comfyui, graph, ours=ours)
    else:
        found = results(comfyui, graph, ours=ours, core=core)
        assert_same(found["ours"], found["core"])


def test_two_loras_add_up_as_with_core(comfyui: ComfyUI) -> None:
    graph = Graph()

    def twice(apply, clip: Link) -> Link:
        first = apply(clip, "kohya.safetensors")
        return apply(first, "diffusers.safetensors")

    def ours(clip: Link, name: str) -> Link:
        return graph.add("LoadSD2CLIPLora", clip=clip, lora_name=name, strength=0.5).out()

    def core(clip: Link, name: str) -> Link:
        model = graph.add("CheckpointLoaderSimple", ckpt_name="sd21.safetensors").out()
        return graph.add("LoraLoader", model=model, clip=clip, lora_name=name,
                         strength_model=1.0, strength_clip=0.5).out(1)  # fmt: skip

    found = results(
        comfyui,
        graph,
        ours=encode(graph, twice(ours, our_clip(graph))),
        core=encode(graph, twice(core, our_clip(graph))),
    )
    assert_same(found["ours"], found["core"])


def test_report_counts_what_was_applied(comfyui: ComfyUI) -> None:
    assert "115 weights in 23 layers changed at strength 0.7" in info(comfyui, "kohya.safetensors")


def test_another_familys_lora_is_refused_by_name(comfyui: ComfyUI) -> None:
    with pytest.raises(PromptError, match=r"768 wide \(CLIP-L of SD 1"):
        info(comfyui, "sd1.safetensors")


def test_a_lora_is_not_a_flood_of_log_lines(comfyui: ComfyUI) -> None:
    before = len(comfyui.log_text())
    info(comfyui, "flattened.safetensors")
    assert "lora key not loaded" not in comfyui.log_text()[before:]
