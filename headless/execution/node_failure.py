"""Describes an exception of a node, with what a person needs to find and fix the cause."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...sd2.errors import plain_text
from ..graph import Node

LONGEST_INPUT_SHOWN = 1000


@dataclass(frozen=True)
class NodeFailure:
    """Why a node failed. ``str()`` is one line: ``node 5 (Load SD2 CLIP): no such file``."""

    node_id: str
    class_type: str
    title: str
    message: str
    exception: BaseException
    exception_type: str
    traceback: tuple[str, ...]
    inputs: dict[str, list[Any]]
    """The arguments of the node: numbers and booleans as they are, others as text."""
    input_name: str | None = None
    """The input that caused it, if the exception has an attribute ``input_name``."""

    def __str__(self) -> str:
        where = f"node {self.node_id} ({self.title})"
        if self.input_name is not None:
            where += f", input '{self.input_name}'"
        return plain_text(f"{where}: {self.message}")


def describe_failure(
    node: Node, title: str, error: BaseException, arguments: Mapping[str, list[Any]]
) -> NodeFailure:
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    input_name = getattr(error, "input_name", None)
    return NodeFailure(
        node_id=node.id,
        class_type=node.class_type or "",
        title=title,
        message=plain_text(str(error) or kind.__name__),
        exception=error,
        exception_type=f"{module}{kind.__qualname__}",
        traceback=tuple(traceback.format_tb(error.__traceback__)),
        inputs={name: [_plain(value) for value in values] for name, values in arguments.items()},
        input_name=input_name if isinstance(input_name, str) else None,
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)[:LONGEST_INPUT_SHOWN]
