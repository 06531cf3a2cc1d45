"""What ComfyUI's ``/object_info`` says, of our nodes and of those of core that the examples use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fake_graph import fake_node
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.editor.node_info import describe_nodes

CORE_NODES = Path(__file__).parent.parent / "data" / "core_nodes.json"
"""Inputs and outputs of core nodes in ComfyUI 0.29.0, without texts and lists of files."""

EXAMPLE_FILES = (
    "models/checkpoints/v2-1_768-ema-pruned.safetensors",
    "models/checkpoints/sd_turbo.safetensors",
    "models/loras/sd21_style_lora.safetensors",
    "output/conditioning/positive_00001_.safetensors",
    "output/conditioning/negative_00001_.safetensors",
)
"""What the example workflows name, below the folder of the ``standalone`` fixture."""


def described() -> dict[str, Any]:
    """Our nodes; their lists of files are those of the host in use."""
    return describe_nodes(NODE_CLASS_MAPPINGS, "custom_nodes.sd2-clip")


def core_node_classes() -> dict[str, type]:
    """Classes that declare what core's do, for conversion and validation; they cannot run."""
    listed = json.loads(CORE_NODES.read_text(encoding="utf-8"))
    return {
        name: fake_node(
            **{group: _inputs(info, group) for group in ("required", "optional")},
            returns=tuple(info["output"]),
            TITLE=info["display_name"],
            OUTPUT_NODE=info["output_node"],
        )
        for name, info in listed.items()
    }


def _inputs(info: dict[str, Any], group: str) -> dict[str, Any]:
    return {name: tuple(one) for name, one in info["input"].get(group, {}).items()}
