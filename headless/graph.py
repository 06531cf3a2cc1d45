"""ComfyUI's API format, ``{id: {"class_type", "inputs", "_meta"?}}``, as a typed graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..sd2.files.limits import MAX_NODE_NAME
from .workflow_errors import WorkflowError


@dataclass(frozen=True, slots=True)
class Link:
    """An input that is output ``slot`` of another node."""

    node_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Value:
    """An input that the workflow states itself; lists are unwrapped from ``__value__``."""

    value: Any


@dataclass(frozen=True, slots=True)
class BadLink:
    """A list that is not a link. Lists of values must be wrapped: ``{"__value__": [...]}``."""

    received: list[Any]


Input = Link | Value | BadLink


@dataclass(frozen=True, slots=True)
class Node:
    """One node as the workflow states it, not checked against its class."""

    id: str
    class_type: str | None
    inputs: Mapping[str, Input]
    title: str | None = None


Graph = Mapping[str, Node]
"""Nodes by id, in the order of the document. Ids are opaque."""


def is_ui_workflow(document: Any) -> bool:
    """Whether this is the format that the editor saves (nodes in a list), not the API's."""
    return isinstance(document, Mapping) and isinstance(document.get("nodes"), list)


def unwrap_prompt(document: Any) -> Mapping[str, Any]:
    """Return the prompt itself, given bare or as ``{"prompt": {...}, ...}``.

    Raises:
        WorkflowError: for anything else, the editor's own format included.
    """
    if is_ui_workflow(document):
        raise WorkflowError(
            "this is a workflow in the editor's format, not in the API format. In the editor, "
            "choose Export (API)"
        )
    if not isinstance(document, Mapping):
        raise WorkflowError(
            f"a workflow is a JSON object with one node per key; found {type(document).__name__}"
        )
    inner = document.get("prompt")
    if isinstance(inner, Mapping) and "class_type" not in inner:
        return inner
    return document


def parse_prompt(document: Mapping[str, Any]) -> dict[str, Node]:
    """Parse a prompt in API format.

    Raises:
        WorkflowError: naming the node.
    """
    return {str(key): _parse_node(str(key), node) for key, node in document.items()}


def _parse_node(node_id: str, node: Any) -> Node:
    if not isinstance(node, Mapping):
        raise WorkflowError(
            f"node {node_id}: expected an object with 'class_type' and 'inputs', "
            f"found {type(node).__name__}"
        )
    check_name(node_id, node_id)
    inputs = node.get("inputs", {})
    if not isinstance(inputs, Mapping):
        raise WorkflowError(
            f"node {node_id}: 'inputs' must be an object, found {type(inputs).__name__}"
        )
    class_type = node.get("class_type")
    if class_type is not None and not isinstance(class_type, str):
        raise WorkflowError(f"node {node_id}: 'class_type' must be a string, found {class_type!r}")
    for name in (class_type or "", *inputs):
        check_name(node_id, name)
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return Node(
        id=node_id,
        class_type=class_type,
        inputs={name: parse_input(received) for name, received in inputs.items()},
        title=title if isinstance(title, str) and title else None,
    )


def check_name(node_id: str, name: str) -> None:
    """Raise WorkflowError if the name of a node, a class or an input is too long to be quoted."""
    if len(name) > MAX_NODE_NAME:
        raise WorkflowError(
            f"node {node_id[:100]}: {name[:100]!r}… is a name of {len(name):,} characters; at most "
            f"{MAX_NODE_NAME:,} are read"
        )


def parse_input(received: Any) -> Input:
    """Parse one input. In JSON, a bare list is a link."""
    if isinstance(received, list):
        return parse_link(received) or BadLink(received)
    if isinstance(received, dict) and "__value__" in received:
        return Value(received["__value__"])
    return Value(received)


def parse_link(received: Any) -> Link | None:
    """Parse ``["node id", slot]``; None if this is not a link."""
    if not isinstance(received, list) or len(received) != 2:
        return None
    node_id, slot = received
    if not isinstance(node_id, str) or isinstance(slot, bool):
        return None
    if isinstance(slot, float) and slot.is_integer():
        slot = int(slot)
    return Link(node_id, slot) if isinstance(slot, int) else None
