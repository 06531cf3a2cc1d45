"""A small workflow in the editor's format, its node classes, and its conversion."""

from __future__ import annotations

from typing import Any

from fake_graph import fake_node
from sd2_clip.headless.editor_format.to_prompt import workflow_to_prompt
from sd2_clip.headless.node_class import NodeClasses
from ui_canvas import Canvas

TEXT = ("STRING", {"multiline": True})


CLASSES: dict[str, type] = {
    "Load": fake_node(
        required={"name": (["a.pt", "b.pt"], {})},
        optional={"index": ("INT", {"default": -2})},
        returns=("CLIP", "STRING"),
        TITLE="Load It",
    ),
    "Encode": fake_node(
        required={"clip": ("CLIP", {}), "text": TEXT},
        optional={"strength": ("FLOAT", {"default": 1.0})},
        returns=("COND",),
        TITLE="Encode It",
    ),
    "Save": fake_node(required={"cond": ("COND", {})}, OUTPUT_NODE=True),
    "Combine": fake_node(required={"one": ("COND", {}), "other": ("COND", {})}, returns=("COND",)),
    "Sample": fake_node(
        required={
            "seed": ("INT", {}),
            "steps": ("INT", {"default": 20}),
            "method": (["euler", "heun"], {"control_after_generate": True}),
            "model": ("MODEL", {"forceInput": True}),
            "size": ("INT", {"control_after_generate": True}),
            "name": ("STRING", {"default": "x"}),
        },
        returns=("*",),
    ),
    "Lists": fake_node(required={"sizes": ("COLOR", {})}),
}


def convert(canvas: Canvas | dict[str, Any], version: float = 0.4) -> dict[str, Any]:
    document = canvas if isinstance(canvas, dict) else canvas.document(version)
    return workflow_to_prompt(document, NodeClasses(CLASSES))[0]


def inputs(canvas: Canvas, node_id: str) -> Any:
    return convert(canvas)[node_id]["inputs"]


def notes(canvas: Canvas) -> tuple[str, ...]:
    return workflow_to_prompt(canvas.document(), NodeClasses(CLASSES))[1]


def basic() -> Canvas:
    canvas = Canvas()
    canvas.add(1, "Load", ["b.pt", -1], outputs="CLIP:CLIP info:STRING")
    canvas.add(2, "Encode", ["a cat", 0.5], inputs="clip:CLIP", outputs="COND:COND")
    canvas.add(3, "Save", inputs="cond:COND", title="Keep")
    canvas.link(1, 0, 2, "clip")
    canvas.link(2, 0, 3, "cond")
    return canvas


BASIC = {
    "1": {
        "inputs": {"name": "b.pt", "index": -1},
        "class_type": "Load",
        "_meta": {"title": "Load It"},
    },
    "2": {
        "inputs": {"text": "a cat", "strength": 0.5, "clip": ["1", 0]},
        "class_type": "Encode",
        "_meta": {"title": "Encode It"},
    },
    "3": {"inputs": {"cond": ["2", 0]}, "class_type": "Save", "_meta": {"title": "Keep"}},
}
