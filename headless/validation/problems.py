"""What can be wrong with a prompt, its nodes and their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..graph import Input, Node
from ..node_class import InputSpec

CUSTOM = "custom_validation_failed"
"""The kind of what ``VALIDATE_INPUTS`` answers: a sentence of its own, to be printed alone."""


@dataclass(frozen=True, slots=True)
class InputProblem:
    """A node cannot run because of one of its inputs."""

    kind: str
    """ComfyUI's name for it, such as ``value_not_in_list``."""
    message: str
    details: str
    input_name: str
    spec: InputSpec | None = None
    """The declaration, where it matters."""
    received: Input | None = None
    """What was received in its place, where it matters."""
    received_type: Any = None
    """The type at the other end of a link, if that is the problem."""
    exception: Exception | None = None
    """Why a value could not be converted."""
    cycle: tuple[str, ...] = ()
    """The ids of the nodes on a cycle that this link is part of."""

    def __str__(self) -> str:
        if self.kind == CUSTOM and self.details.startswith(f"{self.input_name} - "):
            return self.details.removeprefix(f"{self.input_name} - ")
        return _text(self.message, self.details)


@dataclass(frozen=True, slots=True)
class NodeProblem:
    """A node, or the whole prompt, cannot run, and that is not due to one input."""

    kind: str
    """ComfyUI's name for it, such as ``missing_node_type``."""
    message: str
    details: str = ""
    not_installed: tuple[Node, ...] = ()
    """The nodes whose class is not installed, if that is the problem."""
    exception: Exception | None = None
    """What the class raised."""

    def __str__(self) -> str:
        if self.kind == CUSTOM and self.details:
            return self.details
        return _text(self.message, self.details)


Problem = InputProblem | NodeProblem


@dataclass(frozen=True, slots=True)
class BadNode:
    """A node that cannot run, and why."""

    node: Node
    title: str
    problems: tuple[Problem, ...]
    dependent_outputs: tuple[str, ...]
    """The ids of the output nodes that cannot run because of it."""
    is_unused: bool = False
    """Whether its class is not installed, but nothing reads from it either: most such nodes are
    labels and switches of the editor, and what can run is complete without them."""


def _text(message: str, details: str) -> str:
    return ": ".join(filter(None, (message, details)))
