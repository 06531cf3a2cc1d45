"""What a run in ComfyUI leaves in the plugin's own folder: nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from comfyui_server import PLUGIN, ComfyUI, Graph, PromptError


def test_nothing_is_written_into_our_folder(comfyui: ComfyUI) -> None:
    graph = Graph()
    loader = graph.add("LoadSD2CLIP", clip_name="sd21.safetensors")
    encoded = graph.add("EncodeSD2Text", clip=loader.out(0), text="a cat")
    graph.add("SaveSD2Conditioning", conditioning=encoded.out(0), filename_prefix="folder")
    comfyui.run(graph)
    comfyui.post("/sd2_clip/tokenize", {"text": "a cat"})
    comfyui.get("/sd2_clip/inspect?clip_name=sd21.ckpt")
    folder = comfyui.models.parent / "custom_nodes" / "SD2-CLIP"
    there = [path for path in folder.rglob("*") if path.is_file()]
    assert len(there) > 50
    written = [path for path in there if not _is_ours(path.relative_to(folder))]
    assert written == []


def _is_ours(path: Path) -> bool:
    """Whether a file came with the plugin, or is Python's compiled form of one that did."""
    return "__pycache__" in path.parts or (PLUGIN / path).is_file()


def test_missing_file_is_blamed_on_its_name_alone(comfyui: ComfyUI) -> None:
    graph = Graph()
    loader = graph.add("LoadSD2CLIP", clip_name="gone.ckpt", device="gpu:7")
    graph.add("InspectSD2Text", clip=loader.out(0), text="a cat")
    with pytest.raises(PromptError) as refused:
        comfyui.run(graph)
    [errors] = [node["errors"] for node in json.loads(str(refused.value))["node_errors"].values()]
    assert [error["extra_info"]["input_name"] for error in errors] == ["clip_name"]


def test_gpu_of_another_machine_is_no_error(comfyui: ComfyUI) -> None:
    graph = Graph()
    loader = graph.add("LoadSD2CLIP", clip_name="sd21.safetensors", device="gpu:7")
    graph.add("InspectSD2Text", clip=loader.out(0), text="a cat")
    outputs = comfyui.run(graph)
    assert any("gpu:7" in line for line in outputs[loader.key]["text"])
