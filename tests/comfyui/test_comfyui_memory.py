"""What ComfyUI's memory management finds in a CLIP of ours."""

import json

import pytest
from comfyui_graphs import core_clip, our_clip
from comfyui_server import ComfyUI, Graph


@pytest.fixture(scope="module")
def ours(comfyui: ComfyUI) -> dict[str, object]:
    return probe(comfyui, our=True)


def probe(comfyui: ComfyUI, *, our: bool) -> dict[str, object]:
    graph = Graph()
    clip = our_clip(graph, "sd21.safetensors") if our else core_clip(graph)
    node = graph.add("ProbeForTest", clip=clip)
    return dict(json.loads(comfyui.run(graph)[node.key]["text"][0]))


def test_the_clip_and_its_patcher_are_cores_own(comfyui: ComfyUI, ours) -> None:
    core = probe(comfyui, our=False)
    assert ours["clip"] == "comfy.sd.CLIP"
    assert ours["patcher"] == core["patcher"]
    for device in ("load_device", "offload_device"):
        assert ours[device] == core[device]


def test_tensor_names_are_those_of_core_today(ours) -> None:
    names = ours["names"]
    assert len(names) == 390
    assert "clip_h.transformer.text_projection.weight" in names


def test_parameters_are_no_inference_tensors_though_nodes_run_in_inference_mode(ours) -> None:
    assert ours["inference_mode_here"]
    assert ours["inference"] == []


def test_a_second_copy_can_be_made_for_another_device(ours) -> None:
    if "rebuilt_equal" not in ours:
        pytest.skip("this ComfyUI asks for no second copy")
    assert ours["rebuilt_equal"]
    assert ours["rebuilt_is_new"]
    assert ours["rebuilt_undynamic"] == "ModelPatcher"
