"""What ComfyUI says of us when it starts, and what it then offers."""

import re

from comfyui_server import ComfyUI

NODES = {
    "LoadSD2CLIP",
    "EncodeSD2Text",
    "InspectSD2Text",
    "SaveSD2Conditioning",
    "LoadSD2Conditioning",
    "LoadSD2CLIPLora",
}


def test_start_up_says_nothing_of_us_but_the_import_time(comfyui: ComfyUI) -> None:
    start = comfyui.log_text().split("To see the GUI")[0]
    lines = [line for line in start.splitlines() if "sd2" in line.lower()]
    assert len(lines) == 1, lines
    assert re.search(r"\d seconds: .*SD2-CLIP$", lines[0])


def test_every_node_is_offered(comfyui: ComfyUI) -> None:
    assert set(comfyui.nodes()) >= NODES


def test_the_loader_offers_files_of_every_folder_once(comfyui: ComfyUI) -> None:
    inputs = comfyui.nodes()["LoadSD2CLIP"]["input"]
    names = inputs["required"]["clip_name"][0]
    assert {"sd21.ckpt", "sd21.safetensors", "23-layers.safetensors"} <= set(names)
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("clip/")]
    assert inputs["optional"]["device"][0] == ["auto", "cpu"]


def test_routes_answer(comfyui: ComfyUI) -> None:
    answer = comfyui.post("/sd2_clip/tokenize", {"text": "a cat"})
    assert [part["token_count"] for part in answer["parts"]] == [2]


def test_routes_answer_below_api_where_comfyui_has_it(comfyui: ComfyUI, installation) -> None:
    if "/api" in (installation / "server.py").read_text(encoding="utf-8"):
        assert comfyui.get("/api/sd2_clip/inspect?clip_name=sd21.ckpt")["layout"]
