"""Changes inputs of a workflow, as the command line's ``--set NODE.INPUT=VALUE`` asks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .graph import Node, parse_input, parse_link
from .node_class import InputSpec
from .workflow import Workflow
from .workflow_errors import WorkflowError


def apply_overrides(workflow: Workflow, overrides: Iterable[str]) -> Workflow:
    """Return a copy with each ``NODE.INPUT=VALUE`` applied in turn.

    NODE is an id, or a title or class that only one node has. VALUE is parsed as JSON, else taken
    as text; for a text input, or one of several texts to choose from, it is always text. A link
    may be replaced.

    Raises:
        WorkflowError: listing the nodes or inputs that exist.
    """
    prompt = dict(workflow.prompt)
    graph = dict(workflow.graph)
    for override in overrides:
        target, equals, text = override.partition("=")
        if not equals or "." not in target:
            raise WorkflowError(f"{override!r}: write NODE.INPUT=VALUE, for instance 6.text=a cat")
        node, name = _find(target, workflow)
        value = _parse_value(text, _find_spec(node, name, workflow, override))
        stated = prompt[node.id]
        prompt[node.id] = {**stated, "inputs": {**stated.get("inputs", {}), name: value}}
        inputs = {**graph[node.id].inputs, name: parse_input(value)}
        graph[node.id] = replace(node, inputs=inputs)
    return replace(workflow, prompt=prompt, graph=graph)


def _find(target: str, workflow: Workflow) -> tuple[Node, str]:
    """Split ``NODE.INPUT`` where NODE is a node: titles and inputs may contain dots too."""
    dots = [i for i, letter in enumerate(target) if letter == "."]
    for split in reversed(dots):
        found = _named(target[:split].strip(), workflow)
        if len(found) == 1:
            return found[0], target[split + 1 :].strip()
        if found:
            ids = ", ".join(node.id for node in found)
            raise WorkflowError(
                f"{target!r}: {len(found)} nodes have the name {target[:split]!r}; choose one by "
                f"its id: {ids}"
            )
    known = "\n".join(
        f"  {node.id}: {workflow.titles[node.id]} ({node.class_type})"
        for node in workflow.graph.values()
    )
    raise WorkflowError(f"{target!r}: there is no such node. The nodes are:\n{known}")


def _named(name: str, workflow: Workflow) -> list[Node]:
    if name in workflow.graph:
        return [workflow.graph[name]]
    nodes = workflow.graph.values()
    # A node's own title first; then its class's title; then the class name.
    for names in (
        {node.id: node.title or "" for node in nodes},
        workflow.titles,
        {node.id: node.class_type or "" for node in nodes},
    ):
        found = [node for node in nodes if names[node.id].casefold() == name.casefold()]
        if found:
            return found
    return []


def _find_spec(node: Node, name: str, workflow: Workflow, override: str) -> InputSpec | None:
    """The declaration of the input; None if the class is not installed."""
    if node.class_type not in workflow.classes:
        if name in node.inputs:
            return None
        known = list(node.inputs)
    else:
        cls = workflow.classes[node.class_type or ""]
        spec = cls.spec(name)
        if spec is not None and spec.category != "hidden":
            return spec
        known = [spec.name for spec in cls.inputs]
    raise WorkflowError(
        f"{override!r}: node {node.id} ({workflow.titles[node.id]}) has no input {name!r}. "
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
