"""Small node classes and prompts for the tests of ``headless``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

INT = ("INT", {"default": 0})
STRING = ("STRING", {})


def fake_node(
    run: Callable[..., Any] = lambda **inputs: (),
    *,
    required: dict[str, Any] | None = None,
    optional: dict[str, Any] | None = None,
    hidden: dict[str, Any] | None = None,
    returns: tuple[Any, ...] = (),
    **attributes: Any,
) -> type:
    """A V1 node class whose function is ``run`` (it gets no ``self``)."""
    declared = {"required": required or {}, "optional": optional or {}, "hidden": hidden or {}}
    return type(
        "FakeNode",
        (),
        {
            "INPUT_TYPES": classmethod(lambda cls: declared),
            "RETURN_TYPES": returns,
            "FUNCTION": "run",
            "run": staticmethod(run),
            **attributes,
        },
    )


def class_function(function: Callable[..., Any]) -> Any:
    """For IS_CHANGED and VALIDATE_INPUTS of a fake node."""
    return staticmethod(function)


NUMBER = fake_node(
    lambda value: (value,), required={"value": INT}, returns=("INT",), TITLE="A Number"
)
ADD = fake_node(lambda a, b=1: (a + b,), required={"a": INT}, optional={"b": INT}, returns=("INT",))
SHOW = fake_node(
    lambda value: {"ui": {"shown": [value]}}, required={"value": ("*", {})}, OUTPUT_NODE=True
)

NODES: dict[str, type] = {"Number": NUMBER, "Add": ADD, "Show": SHOW}


def node(class_type: str, *, title: str | None = None, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    made: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    if title is not None:
        made["_meta"] = {"title": title}
    return made


def chain(length: int) -> dict[str, Any]:
    """Number -> Add -> ... -> Show: ``length`` nodes; it shows ``length - 2``."""
    prompt = {"0": node("Number", value=0)}
    for i in range(1, length - 1):
        prompt[str(i)] = node("Add", a=[str(i - 1), 0])
    prompt["show"] = node("Show", value=[str(length - 2), 0])
    return prompt


class EventLog:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, data: dict[str, Any]) -> None:
        self.events.append((event, data))

    @property
    def names(self) -> list[str]:
        return [event for event, _ in self.events]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == event]
