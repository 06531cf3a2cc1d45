"""What a V1 node class declares, and calls of its functions over lists of inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from ..sd2.files.limits import MAX_NODE_NAME
from .graph import Link, Node, Value
from .workflow_errors import NodeContractError

NO_OPTIONS: Mapping[str, Any] = {}

Arguments = Mapping[str, Sequence[Any]]
"""A list per input: what its source returned, or the one value that the workflow states."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One declared input. ``type`` is a type name, or the list of choices of a combo."""

    name: str
    type: Any
    category: str
    """``required``, ``optional`` or ``hidden``."""
    options: Mapping[str, Any]

    @property
    def choices(self) -> Sequence[Any] | None:
        """The choices of a combo, in either declaration; None if this is not one, or lists none."""
        if isinstance(self.type, (list, tuple)):
            return self.type
        if self.type == "COMBO":
            listed: Sequence[Any] | None = self.options.get("options")
            return listed
        return None


class NodeClass:
    """A node class. ``INPUT_TYPES`` may list folders, so it is called once."""

    def __init__(self, name: str, cls: Any) -> None:
        self.name = name
        self.cls = cls
        self.declared: Mapping[str, Any] = cls.INPUT_TYPES()
        self.return_types: tuple[Any, ...] = tuple(getattr(cls, "RETURN_TYPES", ()))
        self.is_output = getattr(cls, "OUTPUT_NODE", False) is True
        self.input_is_list = bool(getattr(cls, "INPUT_IS_LIST", False))
        self.retired_widgets: Mapping[int, Sequence[Any]] = getattr(cls, "RETIRED_WIDGETS", {})
        """Values of widgets that the class no longer has, by their position in old workflows."""
        self.title: str = getattr(cls, "TITLE", None) or name
        self._specs: dict[str, InputSpec | None] = {}

    def spec(self, name: str) -> InputSpec | None:
        """Find the declaration of an input.

        Some packs declare ``optional`` as a dict that contains every name, so names are looked up
        in it, never listed.
        """
        if name not in self._specs:
            self._specs[name] = self._find(name)
        return self._specs[name]

    def _find(self, name: str) -> InputSpec | None:
        for category in ("required", "optional", "hidden"):
            group = self.declared.get(category)
            if group and name in group:
                return self._read(name, category, group[name])
        return None

    def _read(self, name: str, category: str, declared: Any) -> InputSpec:
        if category == "hidden" and isinstance(declared, str):
            return InputSpec(name, declared, category, NO_OPTIONS)
        if not isinstance(declared, (list, tuple)) or not declared:
            raise NodeContractError(
                f"{self.name}.INPUT_TYPES declares input '{name}' as {declared!r}, not as "
                "(type, {options})"
            )
        options = declared[1] if len(declared) > 1 else NO_OPTIONS
        return InputSpec(name, declared[0], category, options)

    @cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The required inputs, then the optional ones, as declared."""
        names = [name for part in ("required", "optional") for name in self.declared.get(part, ())]
        specs = [self.spec(name) for name in names]
        return tuple(spec for spec in specs if spec is not None)

    @cached_property
    def hidden(self) -> tuple[tuple[str, str], ...]:
        """Pairs of parameter name and kind, such as ``("unique_id", "UNIQUE_ID")``."""
        group = self.declared.get("hidden", NO_OPTIONS)
        pairs = ((name, self._read(name, "hidden", group[name]).type) for name in group)
        return tuple((name, kind) for name, kind in pairs if isinstance(kind, str))

    @cached_property
    def depends_on_its_id(self) -> bool:
        """Whether two nodes with the same inputs may return different results."""
        wants_id = any(kind == "UNIQUE_ID" for _, kind in self.hidden)
        return wants_id or bool(getattr(self.cls, "NOT_IDEMPOTENT", False))

    @cached_property
    def output_is_list(self) -> tuple[bool, ...]:
        declared = tuple(getattr(self.cls, "OUTPUT_IS_LIST", ()))
        return declared + (False,) * (len(self.return_types) - len(declared))

    @cached_property
    def function(self) -> str:
        name = getattr(self.cls, "FUNCTION", None)
        if not isinstance(name, str) or not callable(getattr(self.cls, name, None)):
            raise NodeContractError(f"{self.name}.FUNCTION names no method: {name!r}")
        return name

    @cached_property
    def _parameters(self) -> Parameters:
        return Parameters.of(getattr(self.cls, self.function))

    @cached_property
    def validator(self) -> Parameters | None:
        """The parameters of ``VALIDATE_INPUTS``, if the class has one."""
        function = getattr(self.cls, "VALIDATE_INPUTS", None)
        return None if function is None else Parameters.of(function)

    def strip(self, node: Node) -> tuple[Node, list[str]]:
        """Drop the inputs that the function does not take; return their names as well.

        Values that are not declared are dropped, as in ComfyUI: editors save widgets of their own.
        A link that is not declared is kept if the function has a parameter for it.
        """
        surplus = [
            name
            for name, received in node.inputs.items()
            if self.spec(name) is None
            and not (isinstance(received, Link) and self._parameters.takes(name))
        ]
        if not surplus:
            return node, surplus
        dropped = set(surplus)
        kept = {name: node.inputs[name] for name in node.inputs if name not in dropped}
        return Node(node.id, node.class_type, kept, node.title), surplus

    def hidden_arguments(self, values: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return a one-item list for each hidden input whose kind is in ``values``."""
        return {name: [values[kind]] for name, kind in self.hidden if kind in values}

    def constant_arguments(self, node: Node, hidden: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the arguments of ``IS_CHANGED`` and ``VALIDATE_INPUTS``: None for each link,
        since nothing is computed yet."""
        arguments = {
            name: [received.value if isinstance(received, Value) else None]
            for name, received in node.inputs.items()
        }
        return arguments | self.hidden_arguments(hidden)

    def call(
        self,
        function: Callable[..., Any],
        arguments: Arguments,
        before_call: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Call one of the class's functions for each item of the longest list, as ComfyUI does.

        Shorter lists repeat their last item. With ``INPUT_IS_LIST`` there is one call, which
        receives the lists themselves.
        """
        results = []
        for keywords in self._calls(arguments):
            before_call()
            result = function(**keywords)
            if inspect.iscoroutine(result):
                result.close()
                raise NodeContractError(
                    f"{self.name}.{function.__name__} is a coroutine function; this runner calls "
                    "plain functions only"
                )
            results.append(result)
        return results

    def _calls(self, arguments: Arguments) -> Iterator[Mapping[str, Any]]:
        if self.input_is_list:
            yield arguments
            return
        empty = [name for name, values in arguments.items() if not values]
        if empty:
            raise NodeContractError(f"input '{empty[0]}' received an empty list; nothing to run on")
        for i in range(max(map(len, arguments.values()), default=1)):
            yield {name: values[min(i, len(values) - 1)] for name, values in arguments.items()}


@dataclass(frozen=True, slots=True)
class Parameters:
    """The keyword arguments that a function takes."""

    names: frozenset[str]
    any_name: bool

    @classmethod
    def of(cls, function: Any) -> Parameters:
        found = inspect.signature(function).parameters.values()
        return cls(
            frozenset(p.name for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)),
            any(p.kind is p.VAR_KEYWORD for p in found),
        )

    def takes(self, name: str) -> bool:
        return self.any_name or name in self.names


class NodeClasses:
    """The node classes available to one prompt; each is read once."""

    def __init__(self, classes: Mapping[str, type]) -> None:
        self._classes = classes
        self._seen: dict[str, NodeClass] = {}

    def __contains__(self, class_type: str | None) -> bool:
        return class_type in self._classes

    def like(self, class_type: str) -> str | None:
        """Find the class with the name most similar to a misspelt one, whatever its capitals."""
        names = {name.lower(): name for name in self._classes}
        similar = get_close_matches(class_type.lower(), names, n=1, cutoff=0.8)
        return names[similar[0]] if similar else None

    def raw(self, class_type: str | None) -> type | None:
        """Return the Python class, without reading its declarations."""
        return self._classes.get(class_type) if class_type is not None else None

    def __getitem__(self, class_type: str) -> NodeClass:
        """Read a class; raises whatever its ``INPUT_TYPES`` raises."""
        found = self._seen.get(class_type)
        if found is None:
            found = self._seen[class_type] = NodeClass(class_type, self._classes[class_type])
        return found

    def title(self, node: Node) -> str:
        """Return the name that a person sees: the node's title, its class's, or the class name."""
        if node.title:
            return node.title[:MAX_NODE_NAME]
        cls = self.raw(node.class_type)
        return getattr(cls, "TITLE", None) or node.class_type or "no class_type"
