"""Small node classes and prompts for the tests of ``headless``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sd2_clip.headless.execution.executor import Executor
from sd2_clip.headless.execution.run_graph import Execution
from sd2_clip.headless.validation.validate import Validation, validate
from sd2_clip.headless.workflow import read_prompt

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


def validated(
    prompt: Any, classes: Mapping[str, type] = NODES, targets: Collection[str] | None = None
) -> Validation:
    """The prompt, read and validated."""
    return validate(read_prompt(prompt, classes), targets)


def executed(
    prompt: Any,
    classes: Mapping[str, type] | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> Execution:
    """A run of a good prompt over ``NODES`` and *classes*, with no results before it."""
    validation = validated(prompt, {**NODES, **(classes or {})})
    assert validation.ok, validation.lines()
    return (executor or Executor()).execute(validation, **options)


def shown(prompt: Any, classes: Mapping[str, type] | None = None) -> list[Any]:
    """What the node "show" received, over all its calls."""
    execution = executed(prompt, classes)
    assert execution.status == "success", str(execution.error)
    return execution.outputs["show"]["shown"]


LIST = fake_node(
    lambda items: (items,), required={"items": ("*", {})}, returns=("*",), OUTPUT_IS_LIST=(True,)
)


def listed(*items: Any) -> dict[str, Any]:
    """A node of the class ``LIST``."""
    return node("List", items={"__value__": list(items)})


def only_problem(validation: Validation, node_id: str) -> Any:
    """The one problem of a node."""
    (problem,) = validation.bad_nodes[node_id].problems
    return problem
