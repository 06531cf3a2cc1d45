"""Checks one node against its class: every input, then the class's own ``VALIDATE_INPUTS``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..graph import BadLink, Input, Link, Node, Value
from ..node_class import InputSpec, NodeClass, Parameters
from ..workflow import Workflow
from .check_input import bad_link, check_link, check_value, dangling_link, missing_input
from .problems import CUSTOM, InputProblem, NodeProblem, Problem


def check_node(node: Node, workflow: Workflow) -> tuple[Node, list[Problem]]:
    """Return the node with its values coerced, and its problems.

    Links are checked by the declared types, so nodes may be checked in any order. Raises whatever
    ``INPUT_TYPES`` or ``VALIDATE_INPUTS`` raises.
    """
    cls = workflow.classes[node.class_type or ""]
    validator = cls.validator
    problems: list[Problem] = []
    coerced: dict[str, Input] = {}
    for spec in cls.inputs:
        received = node.inputs.get(spec.name)
        checked = _check_input(spec, received, validator, workflow)
        if isinstance(checked, InputProblem):
            problems.append(checked)
        elif checked is not None and checked is not received:
            coerced[spec.name] = checked
    if coerced:
        node = replace(node, inputs={**node.inputs, **coerced})
    if validator is not None and not problems:
        problems = _call_validator(node, cls, validator, workflow)
    return node, problems


def _check_input(
    spec: InputSpec, received: Input | None, validator: Parameters | None, workflow: Workflow
) -> Input | InputProblem | None:
    """Return the input as it is to be used, None if it may be absent, or what is wrong."""
    if received is None:
        return missing_input(spec) if spec.category == "required" else None
    if isinstance(received, BadLink):
        return bad_link(spec, received)
    if isinstance(received, Value):
        check_range = validator is None or not validator.takes(spec.name)
        return check_value(spec, received, check_range=check_range)
    if received.node_id not in workflow.graph:
        return dangling_link(spec.name, received, f"node {received.node_id} is not in the workflow")
    source = _source_class(received, workflow)
    if source is None:
        return received
    check_type = validator is None or "input_types" not in validator.names
    return check_link(spec, received, source, check_type=check_type) or received


def _source_class(link: Link, workflow: Workflow) -> NodeClass | None:
    """The class of a link's source; None if it cannot be read, which is reported at the source."""
    class_type = workflow.graph[link.node_id].class_type
    if class_type is None or class_type not in workflow.classes:
        return None
    try:
        return workflow.classes[class_type]
    except Exception:
        return None


def _call_validator(
    node: Node, cls: NodeClass, validator: Parameters, workflow: Workflow
) -> list[Problem]:
    """Call ``VALIDATE_INPUTS``: one problem for each answer other than True."""
    hidden = {"UNIQUE_ID": node.id, "PROMPT": workflow.prompt}
    arguments = {
        name: values
        for name, values in cls.constant_arguments(node, hidden).items()
        if validator.takes(name)
    }
    named = {name: values[0] for name, values in arguments.items() if name in node.inputs}
    if "input_types" in validator.names:
        arguments["input_types"] = [_received_types(node, cls, workflow)]
    answers = cls.call(cls.cls.VALIDATE_INPUTS, arguments)
    return [_custom_problem(answer, named) for answer in answers if answer is not True]


def _received_types(node: Node, cls: NodeClass, workflow: Workflow) -> dict[str, Any]:
    """The type that each link brings, by the name of the input."""
    types = {}
    for spec in cls.inputs:
        link = node.inputs.get(spec.name)
        if isinstance(link, Link):
            source = _source_class(link, workflow)
            if source is not None:
                types[spec.name] = source.return_types[link.slot]
    return types


def _custom_problem(answer: Any, named: Mapping[str, Any]) -> Problem:
    """Report an answer of ``VALIDATE_INPUTS``, for one input if the answer can mean only that."""
    message = "" if answer is False else str(answer)
    candidates = list(named)
    if len(candidates) != 1:
        candidates = [
            n for n, value in named.items() if value is not None and str(value) in message
        ]
    text = "Custom validation failed for node"
    if len(candidates) != 1:
        return NodeProblem(CUSTOM, text, message)
    return InputProblem(
        CUSTOM, text, " - ".join(filter(None, (candidates[0], message))), candidates[0]
    )
