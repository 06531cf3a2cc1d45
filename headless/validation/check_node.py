"""One node against its class: every input, then the class's own ``VALIDATE_INPUTS``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..execution.call_node import call_over_lists
from ..graph import BadLink, Graph, Input, Link, Node
from ..node_class import InputSpec, NodeClass, NodeClasses, Parameters
from .check_input import (
    ErrorObject,
    InputRejectedError,
    bad_link,
    check_source_type,
    check_value,
    dangling_link,
    missing_input,
    problem,
)


class NodeChecker:
    """Checks the nodes of one prompt, in any order: links are judged by their types alone."""

    def __init__(self, prompt: Mapping[str, Any], graph: Graph, classes: NodeClasses) -> None:
        self._prompt = prompt
        self._graph = graph
        self._classes = classes

    def check(self, node: Node) -> tuple[Node, list[ErrorObject]]:
        """The node with its values coerced, and what is wrong with it.

        Raises whatever the class raises when it is asked for its inputs or its opinion.
        """
        cls = self._classes[node.class_type or ""]
        validator = cls.validator
        errors: list[ErrorObject] = []
        received_types: dict[str, Any] = {}
        coerced: dict[str, Input] = {}
        for spec in cls.inputs:
            try:
                received = node.inputs.get(spec.name)
                if isinstance(received, Link):
                    found = self._check_link(spec, received, validator)
                    if found is not None:
                        received_types[spec.name] = found
                else:
                    checked = _check_other(spec, received, validator)
                    if checked is not None and checked is not received:
                        coerced[spec.name] = checked
            except InputRejectedError as rejected:
                errors.append(rejected.error)
        if coerced:
            node = Node(node.id, node.class_type, {**node.inputs, **coerced}, node.title)
        if validator is not None and not errors:
            errors = self._ask_class(node, cls, validator, received_types)
        return node, errors

    def _check_link(self, spec: InputSpec, link: Link, validator: Parameters | None) -> Any:
        """The type received; None if the class of the source is itself the problem."""
        source = self._graph.get(link.node_id)
        if source is None:
            reason = f"node {link.node_id} is not in the workflow"
            raise InputRejectedError(dangling_link(spec.name, link, reason))
        if source.class_type not in self._classes:
            return None
        try:
            source_class = self._classes[source.class_type or ""]
        except Exception:
            return None  # reported at the source
        check_type = validator is None or "input_types" not in validator.names
        return check_source_type(spec, link, source_class, check_type=check_type)

    def _ask_class(
        self,
        node: Node,
        cls: NodeClass,
        validator: Parameters,
        received_types: Mapping[str, Any],
    ) -> list[ErrorObject]:
        """Run ``VALIDATE_INPUTS``. One error an answer, where ComfyUI repeats it per argument."""
        hidden = {"UNIQUE_ID": node.id, "PROMPT": self._prompt}
        arguments = {
            name: values
            for name, values in cls.constant_arguments(node, hidden).items()
            if validator.takes(name)
        }
        named = [name for name in arguments if name in node.inputs]
        if "input_types" in validator.names:
            arguments["input_types"] = [dict(received_types)]
        answers = call_over_lists(cls.cls.VALIDATE_INPUTS, arguments, whole_lists=cls.input_is_list)
        return [
            _custom_error(answer, {name: arguments[name][0] for name in named})
            for answer in answers
            if answer is not True
        ]


def _custom_error(answer: Any, named: Mapping[str, Any]) -> ErrorObject:
    """An answer other than True, blamed on an input if there is one input that it can mean."""
    message = "" if answer is False else str(answer)
    blamed = list(named) if len(named) == 1 else []
    if not blamed:
        blamed = [n for n, value in named.items() if value is not None and str(value) in message]
    only = blamed[0] if len(blamed) == 1 else ""
    where = {"input_name": only} if only else {}
    details = " - ".join(filter(None, (only, message)))
    return problem(
        "custom_validation_failed", "Custom validation failed for node", details, **where
    )


def _check_other(
    spec: InputSpec, received: Input | None, validator: Parameters | None
) -> Input | None:
    """An input that is no link: absent, a bad link, or a value, returned as it is to be used."""
    if received is None:
        if spec.category == "required":
            raise InputRejectedError(missing_input(spec))
        return None
    if isinstance(received, BadLink):
        raise InputRejectedError(bad_link(spec, received))
    if isinstance(received, Link):
        return received
    check_range = validator is None or not validator.takes(spec.name)
    return check_value(spec, received, check_range=check_range)
