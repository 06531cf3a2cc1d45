"""Describes node classes as ComfyUI's ``/object_info`` does."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger("sd2_clip")


def describe_node(name: str, cls: Any, module: str) -> dict[str, Any]:
    """Describe one node. ``INPUT_TYPES`` may list folders, and may raise."""
    declared = cls.INPUT_TYPES()
    outputs = list(cls.RETURN_TYPES)
    info: dict[str, Any] = {
        "input": declared,
        "input_order": {group: list(inputs) for group, inputs in declared.items()},
        "output": outputs,
        "output_is_list": list(getattr(cls, "OUTPUT_IS_LIST", [False] * len(outputs))),
        "output_name": list(getattr(cls, "RETURN_NAMES", outputs)),
        "name": name,
        "display_name": getattr(cls, "TITLE", name),
        "description": getattr(cls, "DESCRIPTION", ""),
        "python_module": module,
        "category": getattr(cls, "CATEGORY", ""),
        "output_node": bool(getattr(cls, "OUTPUT_NODE", False)),
        "deprecated": bool(getattr(cls, "DEPRECATED", False)),
        "experimental": bool(getattr(cls, "EXPERIMENTAL", False)),
        "search_aliases": list(getattr(cls, "SEARCH_ALIASES", [])),
    }
    if hasattr(cls, "OUTPUT_TOOLTIPS"):
        info["output_tooltips"] = list(cls.OUTPUT_TOOLTIPS)
    return info


def describe_nodes(classes: Mapping[str, type], module: str) -> dict[str, Any]:
    """Describe all nodes. One whose declaration raises is left out and logged."""
    found = {}
    for name, cls in classes.items():
        try:
            found[name] = describe_node(name, cls, module)
        except Exception:
            log.exception("The node %s cannot be described", name)
    return found
