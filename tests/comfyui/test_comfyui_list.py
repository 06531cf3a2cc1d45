"""Encode SD2 Text List in a real ComfyUI: each prompt as encoded alone, and all that follows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comfyui_graphs import assert_same, core_clip, our_clip, results
from comfyui_server import ComfyUI, Graph, Link, PromptError
from safetensors.torch import load_file

PROMPTS = [
    "a photo of a cat",
    "a (red:1.3) fox, [not] a dog",
    "a tower by the sea " * 20,
    "",
    "owl",
]
TYPED = "a photo of a cat\n\na (red:1.3) fox, [not] a dog\n  \n" + "a tower by the sea " * 20

Need = Callable[..., None]


def saved_list(comfyui: ComfyUI, graph: Graph, conditionings: Link, prefix: str) -> list[Any]:
    """Run *graph*; the conditionings of a list, which Save SD2 Conditioning numbers."""
    save = graph.add("SaveSD2Conditioning", conditioning=conditionings, filename_prefix=prefix)
    written = comfyui.run(graph)[save.key]["conditioning"]
    return [load_file(comfyui.output / file["filename"]) for file in written]


def singles(
    comfyui: ComfyUI, clip: Any, prompts: list[str], name: str, **options: Any
) -> list[Any]:
    graph = Graph()
    made = clip(graph)
    texts = {
        f"{name}{number}": graph.add("EncodeSD2Text", clip=made, text=text, **options).out()
        for number, text in enumerate(prompts)
    }
    found = results(comfyui, graph, **texts)
    return [
        {"conditioning": one["cond0"], "pooled_output": one["pooled0"]} for one in found.values()
    ]


def compare(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("make", [our_clip, core_clip])
def test_typed_lines_are_encoded_as_prompts_alone(comfyui: ComfyUI, make: Any) -> None:
    prompts = [line for line in TYPED.splitlines() if line.strip()]
    name = make.__name__
    graph = Graph()
    encoded = graph.add("EncodeSD2TextList", clip=make(graph), texts=TYPED)
    found = saved_list(comfyui, graph, encoded.out(), f"typed_{name}")
    compare(found, singles(comfyui, make, prompts, f"single_{name}"))


def test_each_prompt_has_its_report(comfyui: ComfyUI) -> None:
    graph = Graph()
    encoded = graph.add("EncodeSD2TextList", clip=our_clip(graph), texts=TYPED)
    shown = graph.add("ShowForTest", text=encoded.out(1))
    reports = comfyui.run(graph)[shown.key]["text"]
    assert [text.partition(":")[0] for text in reports] == [
        "5 tokens, 1 chunk of 77",
        "9 tokens, 1 chunk of 77",
        "100 tokens, 2 chunks of 77",
    ]


def test_a_linked_list_is_taken_as_it_is(comfyui: ComfyUI) -> None:
    graph = Graph()
    texts = graph.add("ListForTest", texts="a cat\non a mat|a dog||owl").out()
    encoded = graph.add("EncodeSD2TextList", clip=our_clip(graph), texts=texts)
    found = saved_list(comfyui, graph, encoded.out(), "linked")
    expected = ["a cat\non a mat", "a dog", "", "owl"]
    compare(found, singles(comfyui, our_clip, expected, "linked_single"))


def test_an_option_and_the_layer_are_those_of_each_prompt(comfyui: ComfyUI) -> None:
    options = {"weight_interpretation": "compel", "stop_at_clip_layer": -3}
    graph = Graph()
    texts = "\n".join(prompt for prompt in PROMPTS if prompt)
    encoded = graph.add("EncodeSD2TextList", clip=our_clip(graph), texts=texts, **options)
    found = saved_list(comfyui, graph, encoded.out(), "options")
    expected = singles(comfyui, our_clip, list(filter(None, PROMPTS)), "option_single", **options)
    compare(found, expected)


def test_scheduled_hooks_give_each_prompt_its_entries(comfyui: ComfyUI, need: Need) -> None:
    need("CreateHookLora", "SetClipHooks", "CreateHookKeyframe", "SetHookKeyframes")

    def hooked(graph: Graph) -> Link:
        hooks = graph.add("CreateHookLora", lora_name="kohya.safetensors", strength_model=0.0,
                          strength_clip=0.8).out()  # fmt: skip
        first = graph.add("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0).out()
        both = graph.add("CreateHookKeyframe", strength_mult=0.2, start_percent=0.5,
                         prev_hook_kf=first).out()  # fmt: skip
        hooks = graph.add("SetHookKeyframes", hooks=hooks, hook_kf=both).out()
        return graph.add("SetClipHooks", clip=our_clip(graph), apply_to_conds=False,
                         schedule_clip=True, hooks=hooks).out()  # fmt: skip

    graph = Graph()
    encoded = graph.add("EncodeSD2TextList", clip=hooked(graph), texts="a cat\na dog")
    # Options of the hooks are not saved as tensors.
    found = saved_list(comfyui, graph, encoded.out(), "hooked")
    graph = Graph()
    clip = hooked(graph)
    alone = results(
        comfyui,
        graph,
        **{
            f"hooked_{text}": graph.add("EncodeSD2Text", clip=clip, text=f"a {text}").out()
            for text in ("cat", "dog")
        },
    )
    for one, other in zip(found, alone.values(), strict=True):
        assert torch.equal(one["0.cond"], other["cond0"])
        assert torch.equal(one["1.cond"], other["cond1"])
        assert not torch.equal(one["0.cond"], one["1.cond"])


def test_an_empty_list_is_refused(comfyui: ComfyUI) -> None:
    graph = Graph()
    texts = graph.add("ListForTest", texts="").out()
    encoded = graph.add("EncodeSD2TextList", clip=our_clip(graph), texts=texts)
    graph.add("SaveSD2Conditioning", conditioning=encoded.out(), filename_prefix="none")
    with pytest.raises(PromptError, match="linked to texts is empty"):
        comfyui.run(graph)


def test_cores_training_data_node_takes_the_list(comfyui: ComfyUI, need: Need) -> None:
    need("SaveTrainingDataset")
    graph = Graph()
    listed = graph.add("ListForTest", texts="a cat|a (dog:1.2)|an owl")
    # Latents of one, two and three pictures.
    latents = graph.add("EmptyLatentImage", width=64, height=64, batch_size=listed.out(1)).out()
    encoded = graph.add("EncodeSD2TextList", clip=our_clip(graph), texts=listed.out())
    graph.add("SaveTrainingDataset", latents=latents, conditioning=encoded.out(),
              folder_name="training", shard_size=1)  # fmt: skip
    comfyui.run(graph)
    shards = sorted(comfyui.output.parent.rglob("training/shard_*.pkl"))
    expected = singles(comfyui, our_clip, ["a cat", "a (dog:1.2)", "an owl"], "for_training")
    for shard, one in zip(shards, expected, strict=True):
        assert shard.stat().st_size < 45_000  # one conditioning: 20 kB, and not the whole batch
        [[[cond, options]]] = torch.load(shard, weights_only=False)["conditioning"]
        assert_same({"conditioning": cond, "pooled_output": options["pooled_output"]}, one)


@pytest.mark.full_size
def test_a_list_of_prompts_is_sampled_to_a_picture_each(full_comfyui: ComfyUI) -> None:
    graph = Graph()
    loader = graph.add("CheckpointLoaderSimple", ckpt_name="sd21.safetensors")
    clip = our_clip(graph, "sd21.safetensors")
    positive = graph.add("EncodeSD2TextList", clip=clip, texts="a cat\na dog\nan owl").out()
    negative = graph.add("EncodeSD2Text", clip=clip, text="blurry").out()
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1).out()
    sampled = graph.add("KSampler", model=loader.out(0), positive=positive, negative=negative,
                        latent_image=latent, seed=1, steps=2, cfg=7.0, sampler_name="euler",
                        scheduler="normal", denoise=1.0).out()  # fmt: skip
    save = graph.add("SaveLatent", samples=sampled, filename_prefix="list")
    written = full_comfyui.run(graph)[save.key]["latents"]
    first, *others = [
        load_file(full_comfyui.output / one["subfolder"] / one["filename"])["latent_tensor"]
        for one in written
    ]
    assert len(others) == 2
    assert first.isfinite().all()
    assert not any(torch.equal(first, one) for one in others)
