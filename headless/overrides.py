"""``NODE.INPUT=VALUE``: a prompt with some inputs changed, for the command line's ``--set``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .graph import Node, parse_link, parse_prompt, unwrap_prompt
from .node_class import InputSpec, NodeClasses
from .workflow_errors import OverrideError


def apply_overrides(
    prompt: Mapping[str, Any], overrides: Iterable[str], node_classes: Mapping[str, type]
) -> dict[str, Any]:
    """A copy of an API prompt with each ``NODE.INPUT=VALUE`` applied in turn.

    NODE is an id, or a title or class that only one node has. VALUE is JSON, or else text; for an
    input of text, or a choice among texts, it is always text. A link may be replaced.

    Raises:
        OverrideError: with the nodes or inputs that there are.
    """
    result = dict(unwrap_prompt(prompt))
    nodes = parse_prompt(result)
    classes = NodeClasses(node_classes)
    for override in overrides:
        target, equals, text = override.partition("=")
        if not equals or "." not in target:
            raise OverrideError(f"{override!r}: write NODE.INPUT=VALUE, for instance 6.text=a cat")
        node, name = _find(target, nodes, classes)
        spec = _declared(node, name, classes, override)
        inputs = dict(result[node.id].get("inputs", {}))
        inputs[name] = _parse_value(text, spec)
        result[node.id] = {**result[node.id], "inputs": inputs}
    return result


def _find(target: str, nodes: Mapping[str, Node], classes: NodeClasses) -> tuple[Node, str]:
    """Split ``NODE.INPUT`` where a node is found: titles, and inputs too, may contain dots."""
    at = [i for i, letter in enumerate(target) if letter == "."]
    for split in reversed(at):
        found = _named(target[:split].strip(), nodes, classes)
        if len(found) == 1:
            return found[0], target[split + 1 :].strip()
        if found:
            ids = ", ".join(node.id for node in found)
            raise OverrideError(
                f"{target!r}: {len(found)} nodes are called {target[:split]!r}; name one by its "
                f"id: {ids}"
            )
    known = "\n".join(f"  {n.id}: {classes.title(n)} ({n.class_type})" for n in nodes.values())
    raise OverrideError(f"{target!r}: there is no such node. The nodes are:\n{known}")


def _named(name: str, nodes: Mapping[str, Node], classes: NodeClasses) -> list[Node]:
    if name in nodes:
        return [nodes[name]]
    # A node's own title first; then its class's title; then the class name.
    for called in (
        {node.id: node.title or "" for node in nodes.values()},
        {node.id: classes.title(node) for node in nodes.values()},
        {node.id: node.class_type or "" for node in nodes.values()},
    ):
        found = [node for node in nodes.values() if called[node.id].casefold() == name.casefold()]
        if found:
            return found
    return []


def _declared(node: Node, name: str, classes: NodeClasses, override: str) -> InputSpec | None:
    if node.class_type not in classes:
        if name in node.inputs:
            return None
        known = list(node.inputs)
    else:
        cls = classes[node.class_type or ""]
        spec = cls.spec(name)
        if spec is not None and spec.category != "hidden":
            return spec
        known = [spec.name for spec in cls.inputs]
    raise OverrideError(
        f"{override!r}: node {node.id} ({classes.title(node)}) has no input {name!r}. "
        f"Its inputs are: {', '.join(known) or 'none'}"
    )


def _parse_value(text: str, spec: InputSpec | None) -> Any:
    if spec is not None and (spec.type == "STRING" or text in (spec.choices or ())):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, list) and parse_link(value) is None:
        return {"__value__": value}
    return value
