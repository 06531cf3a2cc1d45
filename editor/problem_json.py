"""Problems of a prompt as ComfyUI's API reports them.

One problem is ``{"type", "message", "details", "extra_info"}``; the problems of a node are
``{"errors", "dependent_outputs", "class_type"}``, to which we add its ``title``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

from ..headless.graph import BadLink, Link, Value
from ..headless.node_class import InputSpec
from ..headless.validation.check_input import MOST_CHOICES_SHOWN
from ..headless.validation.problems import BadNode, InputProblem, NodeProblem
from ..headless.validation.validate import Validation


def refusal_json(validation: Validation) -> dict[str, Any]:
    """The answer to a prompt of which nothing can run."""
    error = None if validation.error is None else problem_json(validation.error)
    return {"error": error, "node_errors": node_errors_json(validation)}


def node_errors_json(validation: Validation) -> dict[str, Any]:
    return {node_id: _bad_node_json(bad) for node_id, bad in validation.bad_nodes.items()}


def _bad_node_json(bad: BadNode) -> dict[str, Any]:
    return {
        "errors": [problem_json(problem, bad.node.id) for problem in bad.problems],
        "dependent_outputs": list(bad.dependent_outputs),
        "class_type": bad.node.class_type,
        "title": bad.title,
    }


def problem_json(problem: InputProblem | NodeProblem, node_id: str | None = None) -> dict[str, Any]:
    """*node_id* is the node with the problem; None for a problem of the whole prompt."""
    if isinstance(problem, InputProblem):
        extra_info = dict(_input_info(problem, node_id))
    else:
        extra_info = dict(_node_info(problem))
    return {
        "type": problem.kind,
        "message": problem.message,
        "details": problem.details,
        "extra_info": extra_info,
    }


def _input_info(problem: InputProblem, node_id: str | None) -> Iterator[tuple[str, Any]]:
    if problem.cycle:
        yield "node_id", node_id
    yield "input_name", problem.input_name
    if problem.cycle:
        yield "cycle_nodes", list(problem.cycle)
    if problem.spec is not None:
        is_long = len(problem.spec.choices or ()) > MOST_CHOICES_SHOWN
        hidden = is_long and problem.kind == "value_not_in_list"
        yield "input_config", None if hidden else _config(problem.spec)
    received = problem.received
    if problem.received_type is not None:
        yield "received_type", problem.received_type
    if isinstance(received, Link):
        name = "received_value" if problem.received_type is None else "linked_node"
        yield name, [received.node_id, received.slot]
    elif isinstance(received, BadLink):
        yield "received_value", received.received
    elif isinstance(received, Value):
        yield "received_value", received.value
    if problem.exception is not None:
        yield "exception_message", str(problem.exception)


def _config(spec: InputSpec) -> list[Any]:
    return [spec.type, dict(spec.options)]


def _node_info(problem: NodeProblem) -> Iterator[tuple[str, Any]]:
    if problem.not_installed:
        first = problem.not_installed[0]
        yield "node_id", first.id
        yield "class_type", first.class_type
        yield "node_title", first.title or first.class_type
    if problem.exception is not None:
        yield "exception_type", type(problem.exception).__name__
        yield "exception_message", str(problem.exception)
        yield "traceback", traceback.format_tb(problem.exception.__traceback__)
