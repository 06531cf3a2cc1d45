"""The same conditioning from our nodes and from core's, for every kind of file."""

import json
import shutil
from collections.abc import Callable

import pytest
import torch
from comfyui_graphs import assert_same, core_clip, encode, notes, our_clip, records, results, saved
from comfyui_server import ComfyUI, Graph, Link, PromptError
from safetensors.torch import load_file, save_file

TEXTS = {
    "plain": "a photo of a cat",
    "weighted": "a (red:1.3) cat, [not] (blurry:0.4)",
    "empty": "",
    "exclamation": "stop! (stop!!:1.2)",
    "long": "a tower of stones by the sea " * 15,
}

FILES = ("sd21.safetensors", "sd21.ckpt", "encoder.safetensors", "openclip.safetensors")


def three_ways(comfyui: ComfyUI, file: str, text: str, but: tuple[str, ...]) -> None:
    graph = Graph()
    ours, core = our_clip(graph, file), core_clip(graph, file)
    found = results(
        comfyui,
        graph,
        ours_core_node=encode(graph, ours, text),
        ours_our_node=graph.add("EncodeSD2Text", clip=ours, text=text).out(),
        core_our_node=graph.add("EncodeSD2Text", clip=core, text=text).out(),
        core_core_node=encode(graph, core, text),
    )
    expected = found.pop("core_core_node")
    # For 23 layers core's pooled is unset memory: not even equal to itself.
    unset = ("pooled0",) if file.startswith("23") else ()
    assert_same(found.pop("core_our_node"), expected, but=unset)
    for tensors in found.values():
        assert_same(tensors, expected, but=but)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_three_ways_to_encode_a_text_agree(comfyui: ComfyUI, text: str) -> None:
    three_ways(comfyui, "encoder.safetensors", text, but=())


@pytest.mark.parametrize("file", FILES)
def test_three_ways_to_encode_agree_for_the_file(
    comfyui: ComfyUI, of_2023: bool, file: str
) -> None:
    unread = of_2023 and file.startswith("sd21")
    three_ways(comfyui, file, TEXTS["weighted"], but=("pooled0",) if unread else ())


def test_three_ways_to_encode_agree_for_23_layers_but_for_cores_pooled(comfyui: ComfyUI) -> None:
    three_ways(comfyui, "23-layers.safetensors", TEXTS["weighted"], but=("pooled0",))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_an_explicit_dtype_gives_the_same_conditioning(comfyui: ComfyUI, dtype: str) -> None:
    graph = Graph()  # the file is fp16, and everything computes in fp32
    explicit = our_clip(graph, "sd21.safetensors", dtype=dtype, device="cpu")
    found = results(
        comfyui,
        graph,
        auto=encode(graph, our_clip(graph, "sd21.safetensors")),
        explicit=encode(graph, explicit),
    )
    assert_same(found["explicit"], found["auto"])


def test_pooled_of_23_layers_is_finite_and_repeatable(comfyui: ComfyUI) -> None:
    graph = Graph()
    clip = our_clip(graph, "23-layers.safetensors")
    again = our_clip(graph, "23-layers.safetensors", dtype="fp16")
    found = results(comfyui, graph, once=encode(graph, clip), twice=encode(graph, again))
    assert torch.isfinite(found["once"]["pooled0"]).all()
    assert_same(found["once"], found["twice"])


@pytest.mark.parametrize("file", ["prefixed.safetensors", "transformers-names.safetensors"])
def test_files_that_core_cannot_use_give_what_the_plain_encoder_gives(
    comfyui: ComfyUI, file: str
) -> None:
    graph = Graph()
    found = results(
        comfyui,
        graph,
        plain=encode(graph, our_clip(graph)),
        odd=encode(graph, our_clip(graph, file)),
    )
    but = () if file.startswith("prefixed") else ("pooled0",)  # the other has 23 layers
    assert_same(found["odd"], found["plain"], but=but)


def core_fails(comfyui: ComfyUI, name: str, build: Callable[[Graph], list[object]]) -> bool:
    """Whether core raises, or gives numbers of another width or that are none."""
    graph = Graph()
    try:
        found = results(comfyui, graph, **{name: encode(graph, build(graph))})[name]
    except PromptError:
        return True
    usable = found["cond0"].shape[-1] == 64 and torch.isfinite(found["cond0"]).all()
    return not usable


def test_core_cannot_load_prefixed_names(comfyui: ComfyUI) -> None:
    assert core_fails(comfyui, "core_prefixed", lambda g: core_clip(g, "prefixed.safetensors"))


def test_core_cannot_load_transformers_names_in_a_checkpoint(comfyui: ComfyUI) -> None:
    def build(graph: Graph) -> list[object]:
        name = "transformers-names.safetensors"
        return graph.add("CheckpointLoaderSimple", ckpt_name=name).out(1)

    assert core_fails(comfyui, "core_renamed", build)


def test_a_textual_inversion_enters_the_conditioning(comfyui: ComfyUI) -> None:
    graph = Graph()
    clip = our_clip(graph)
    found = results(
        comfyui,
        graph,
        with_it=encode(graph, clip, "a embedding:three cat"),
        without=encode(graph, clip, "a cat"),
        ours=graph.add("EncodeSD2Text", clip=clip, text="a embedding:three cat").out(),
    )
    assert not torch.equal(found["with_it"]["cond0"], found["without"]["cond0"])
    assert_same(found["ours"], found["with_it"])


@pytest.mark.parametrize("make", [our_clip, core_clip])
@pytest.mark.parametrize("text", ["", "a (red:1.3) cat"])
def test_without_padding_the_rows_of_the_text_stay(
    comfyui: ComfyUI, make: Callable[..., Link], text: str
) -> None:
    graph = Graph()
    clip = make(graph)
    found = results(
        comfyui,
        graph,
        padded=graph.add("EncodeSD2Text", clip=clip, text=text).out(),
        unpadded=graph.add("EncodeSD2Text", clip=clip, text=text, padding="none").out(),
    )
    rows = 2 + len(text.split())
    assert found["unpadded"]["cond0"].shape == (1, rows, 64)
    assert torch.equal(found["unpadded"]["cond0"], found["padded"]["cond0"][:, :rows])
    assert torch.equal(found["unpadded"]["pooled0"], found["padded"]["pooled0"])


def test_saved_conditioning_comes_back_unchanged(comfyui: ComfyUI) -> None:
    graph = Graph()
    conditioning = graph.add("EncodeSD2Text", clip=our_clip(graph), text="a cat").out()
    file = graph.add("SaveSD2Conditioning", conditioning=conditioning, filename_prefix="kept")
    graph.add("SaveForTest", conditioning=conditioning, name="before")
    written = comfyui.run(graph)[file.key]["conditioning"][0]
    name = f"{written['filename']} [output]"
    graph = Graph()
    loaded = graph.add("LoadSD2Conditioning", conditioning_name=name).out()
    assert_same(results(comfyui, graph, after=loaded)["after"], saved(comfyui, "before"))


def needs_cores_file_nodes(comfyui: ComfyUI) -> None:
    if "SaveConditioning" not in comfyui.get("/object_info"):
        pytest.skip("this ComfyUI has no Save Conditioning; 0.36 and later have")


def test_core_saves_our_conditioning_and_both_load_it(comfyui: ComfyUI) -> None:
    needs_cores_file_nodes(comfyui)
    graph = Graph()
    conditioning = graph.add("EncodeSD2Text", clip=our_clip(graph), text="a (cat:1.2)").out()
    graph.add("SaveConditioning", conditioning=conditioning, filename_prefix="core")
    graph.add("SaveForTest", conditioning=conditioning, name="before")
    comfyui.run(graph)
    shutil.copy(comfyui.output / "core_00001_.safetensors", comfyui.models / "embeddings")
    graph = Graph()
    found = results(
        comfyui,
        graph,
        by_core=graph.add("ConditioningLoader", conditioning_name="core_00001_.safetensors").out(),
        by_us=graph.add(
            "LoadSD2Conditioning", conditioning_name="core_00001_.safetensors [embeddings]"
        ).out(),
    )
    for tensors in found.values():
        assert_same(tensors, saved(comfyui, "before"))
    for name in ("before", "by_core", "by_us"):
        assert json.loads(records(comfyui, name)[0])["text"] == "a (cat:1.2)"


def test_core_loads_what_we_saved_and_saves_it_again(comfyui: ComfyUI) -> None:
    needs_cores_file_nodes(comfyui)
    graph = Graph()
    conditioning = graph.add("EncodeSD2Text", clip=our_clip(graph), text="a fox").out()
    graph.add("SaveSD2Conditioning", conditioning=conditioning, filename_prefix="for_core")
    graph.add("SaveForTest", conditioning=conditioning, name="before")
    comfyui.run(graph)
    shutil.copy(comfyui.output / "for_core_00001_.safetensors", comfyui.models / "embeddings")
    graph = Graph()
    name = "for_core_00001_.safetensors"
    by_core = graph.add("ConditioningLoader", conditioning_name=name).out()
    by_us = graph.add("LoadSD2Conditioning", conditioning_name=f"{name} [output]").out()
    graph.add("SaveConditioning", conditioning=by_us, filename_prefix="again")
    found = results(comfyui, graph, by_core=by_core, by_us=by_us)
    for tensors in found.values():
        assert_same(tensors, saved(comfyui, "before"))
    assert records(comfyui, "by_core") == records(comfyui, "by_us")
    assert "tensors_sha256" in json.loads(records(comfyui, "by_us")[0])["weights"]


def test_nodes_that_change_conditioning_keep_the_record(comfyui: ComfyUI) -> None:
    graph = Graph()
    clip = our_clip(graph)
    first, second = (
        graph.add("EncodeSD2Text", clip=clip, text=text).out() for text in ("a cat", "a dog")
    )
    average = graph.add(
        "ConditioningAverage",
        conditioning_to=first,
        conditioning_from=second,
        conditioning_to_strength=0.5,
    ).out()
    area = graph.add(
        "ConditioningSetArea", conditioning=average, width=64, height=64, x=0, y=0, strength=0.7
    ).out()
    both = graph.add("ConditioningCombine", conditioning_1=area, conditioning_2=second).out()
    graph.add("SaveSD2Conditioning", conditioning=both, filename_prefix="changed")
    results(comfyui, graph, both=both)
    graph = Graph()
    name = "changed_00001_.safetensors [output]"
    again = graph.add("LoadSD2Conditioning", conditioning_name=name).out()
    assert_same(results(comfyui, graph, again=again)["again"], saved(comfyui, "both"))
    texts = [json.loads(record)["text"] for record in records(comfyui, "again")]
    assert texts == ["a cat", "a dog"]


def test_another_familys_clip_is_refused_by_name(comfyui: ComfyUI) -> None:
    shutil.copy(
        comfyui.models / "embeddings" / "three.safetensors",
        comfyui.models / "clip" / "not-a-clip.safetensors",
    )  # core's loader makes an SD1 CLIP of any file it does not know
    graph = Graph()
    clip = core_clip(graph, "not-a-clip.safetensors")
    text = graph.add("EncodeSD2Text", clip=clip, text="a cat")
    graph.add("SaveForTest", conditioning=text.out(), name="foreign")
    with pytest.raises(PromptError, match=r"SD1|Stable Diffusion 1|CLIP file|clip"):
        comfyui.run(graph)


def test_options_beside_the_tensors_are_cores(comfyui: ComfyUI) -> None:
    graph = Graph()
    results(
        comfyui,
        graph,
        our_options=graph.add("EncodeSD2Text", clip=our_clip(graph), text="a cat").out(),
        core_options=encode(graph, core_clip(graph), "a cat"),
    )
    assert notes(comfyui, "our_options") == notes(comfyui, "core_options")


def test_a_nan_is_an_error_of_our_node_and_a_warning_of_cores(comfyui: ComfyUI) -> None:
    tensors = load_file(comfyui.models / "clip" / "encoder.safetensors")
    broken = "text_model.encoder.layers.1.mlp.fc1.weight"
    tensors[broken].view(-1)[99] = float("nan")
    save_file(tensors, comfyui.models / "clip" / "broken.safetensors")
    graph = Graph()
    results(comfyui, graph, core=encode(graph, our_clip(graph, "broken.safetensors")))
    assert f"broken.safetensors is damaged: the weight {broken}" in comfyui.log_text()
    for loader in (our_clip, core_clip):
        graph = Graph()
        text = graph.add("EncodeSD2Text", clip=loader(graph, "broken.safetensors"), text="a cat")
        graph.add("SaveSD2Conditioning", conditioning=text.out(), filename_prefix="broken")
        with pytest.raises(PromptError, match=r"layers\.1\.mlp\.fc1\.weight"):
            comfyui.run(graph)
    assert not list(comfyui.output.glob("broken*"))
