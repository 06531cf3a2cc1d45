"""A prompt against its node classes, before anything runs: ComfyUI's checks, error types and
shapes, in time linear in the size of the graph.

Where ComfyUI refuses the whole prompt for one node that is not installed, here the outputs that do
not depend on it are still good; the node is named among the errors either way.
"""

from __future__ import annotations

import traceback
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..graph import Graph, Link, Node, parse_prompt, unwrap_prompt
from ..node_class import NodeClasses
from ..workflow_errors import WorkflowError
from .check_input import ErrorObject, problem
from .check_node import NodeChecker
from .topological import find_cycles, sort_sources_first

LONGEST_CYCLE_SHOWN = 20
"""Nodes. Every node of a cycle tells of the whole cycle."""


@dataclass(frozen=True)
class Validation:
    """What is wrong with a prompt, and what can be run of it."""

    ok: bool
    """Whether at least one output can be run."""
    error: ErrorObject | None
    """What is wrong with the prompt as a whole; None if ``ok``."""
    outputs: tuple[str, ...]
    """The output nodes that can be run, in the order of the prompt."""
    node_errors: dict[str, dict[str, Any]]
    """``{id: {"errors", "dependent_outputs", "class_type"}}``; may be filled though ``ok``."""
    notes: tuple[str, ...] = ()
    """What is ignored without being an error."""
    prompt: Mapping[str, Any] = field(default_factory=dict)
    """The prompt as it was given."""
    graph: Graph = field(default_factory=dict)
    """The nodes that the good outputs need, sources before their users: values are coerced,
    inputs that the class has no use for are gone."""
    classes: NodeClasses = field(default_factory=lambda: NodeClasses({}))

    def lines(self) -> list[str]:
        """The errors for a person, a line each, naming node and title."""
        lines = []
        if self.error is not None and not self.node_errors:
            lines.append(": ".join(filter(None, (self.error["message"], self.error["details"]))))
        for node_id, found in self.node_errors.items():
            for error in found["errors"]:
                text = ": ".join(filter(None, (error["message"], error["details"])))
                lines.append(f"node {node_id} ({found['title']}): {text}")
        return lines


def validate(
    prompt: Any, node_classes: Mapping[str, type], targets: Collection[str] | None = None
) -> Validation:
    """Check a prompt (bare or ``{"prompt": ...}``) for its output nodes, or those in ``targets``.

    ``VALIDATE_INPUTS`` may be a coroutine function, so do not call this from an event loop's
    thread. Raises nothing for a bad prompt: all is in the result.
    """
    try:
        document = unwrap_prompt(prompt)
        graph = parse_prompt(document)
    except WorkflowError as error:
        return Validation(False, problem("invalid_prompt", str(error), ""), (), {})
    return _Validator(document, graph, NodeClasses(node_classes)).run(targets)


class _Validator:
    def __init__(self, prompt: Mapping[str, Any], graph: Graph, classes: NodeClasses) -> None:
        self.prompt = prompt
        self.graph = graph
        self.classes = classes
        self.checker = NodeChecker(prompt, graph, classes)
        self.errors: dict[str, list[ErrorObject]] = {}
        self.notes: list[str] = []
        self.checked: dict[str, Node] = {}
        self.sources: dict[str, list[str]] = {}

    def run(self, targets: Collection[str] | None) -> Validation:
        absent = [node for node in self.graph.values() if node.class_type not in self.classes]
        for node in absent:
            self.errors[node.id] = [self._missing_node_type(node)]
        outputs = [
            node.id
            for node in self.graph.values()
            if self._is_output(node) and (targets is None or node.id in targets)
        ]
        if not outputs:
            return self._refuse(absent, problem("prompt_no_outputs", "Prompt has no outputs", ""))

        reached = self._reach(outputs)
        order, left_over = sort_sources_first(reached, self.sources)
        self._report_cycles(left_over)
        for node_id in order:
            self._check_node(self.graph[node_id])
        bad = self._spread(order, left_over)
        good = [output for output in outputs if output not in bad]
        node_errors = self._node_errors([output for output in outputs if output in bad], bad)
        if not good:
            lines = [f"{e['message']}: {e['details']}" for o in outputs for e in self._of(o)]
            error = problem(
                "prompt_outputs_failed_validation",
                "Prompt outputs failed validation",
                "\n".join(lines) or self._summary(node_errors),
            )
            return self._refuse([n for n in absent if n.id in self.sources], error, node_errors)
        needed = self._needed(good)
        return Validation(
            ok=True,
            error=None,
            outputs=tuple(good),
            node_errors=node_errors,
            notes=tuple(self.notes),
            prompt=self.prompt,
            graph={node_id: self.checked[node_id] for node_id in order if node_id in needed},
            classes=self.classes,
        )

    def _of(self, node_id: str) -> list[ErrorObject]:
        return self.errors.get(node_id, [])

    def _refuse(
        self,
        absent: list[Node],
        error: ErrorObject,
        node_errors: dict[str, dict[str, Any]] | None = None,
    ) -> Validation:
        """Nothing can be run. A class that is not installed is the first thing to say."""
        if absent:
            listed = [self._of(node.id)[0] for node in absent]
            error = (
                listed[0]
                if len(listed) == 1
                else problem(
                    "missing_node_type",
                    f"{len(listed)} nodes are of classes that are not installed",
                    ", ".join(f"{node.id} ({self._name(node)})" for node in absent),
                    **listed[0]["extra_info"],
                )
            )
        if node_errors is None:
            node_errors = self._node_errors([], set())
        return Validation(
            False, error, (), node_errors, tuple(self.notes), self.prompt, {}, self.classes
        )

    def _name(self, node: Node) -> str:
        return self.classes.title(node)

    def _missing_node_type(self, node: Node) -> ErrorObject:
        if node.class_type is None:
            message = f"Node '{node.title or node.id}' has no class_type"
        else:
            named = f" ('{node.title}')" if node.title not in (None, node.class_type) else ""
            message = f"Node class '{node.class_type}'{named} is not installed"
            if (near := self.classes.like(node.class_type)) is not None:
                message += f" (did you mean '{near}'?)"
        return problem(
            "missing_node_type",
            message,
            f"Node ID '#{node.id}'",
            node_id=node.id,
            class_type=node.class_type,
            node_title=node.title or node.class_type,
        )

    def _is_output(self, node: Node) -> bool:
        # Asked of the class itself: INPUT_TYPES may raise, and that is an error of the node.
        cls = self.classes.raw(node.class_type)
        return getattr(cls, "OUTPUT_NODE", False) is True

    def _reach(self, outputs: Iterable[str]) -> list[str]:
        """Every node that an output depends on, and ``self.sources`` of each."""
        stack = list(outputs)
        seen = set(stack)
        reached = []
        while stack:
            node_id = stack.pop()
            reached.append(node_id)
            sources = self._sources(self.graph[node_id])
            self.sources[node_id] = sources
            for source in sources:
                if source not in seen:
                    seen.add(source)
                    stack.append(source)
        return reached

    def _sources(self, node: Node) -> list[str]:
        if node.class_type not in self.classes:
            return []
        try:
            node, surplus = self.classes[node.class_type or ""].strip(node)
        except Exception as error:
            self._fail(node, error)
            return []
        self.notes += [
            f"node {node.id} ({self._name(node)}): {node.class_type} has no input '{name}'; ignored"
            for name in surplus
        ]
        self.checked[node.id] = node
        links = dict.fromkeys(i.node_id for i in node.inputs.values() if isinstance(i, Link))
        return [source for source in links if source in self.graph]

    def _report_cycles(self, left_over: Collection[str]) -> None:
        for cycle in find_cycles(left_over, self.sources):
            shown = [f"{id} ({self._name(self.graph[id])})" for id in cycle[:LONGEST_CYCLE_SHOWN]]
            if len(cycle) > LONGEST_CYCLE_SHOWN:
                shown.append(f"... {len(cycle)} nodes in all ...")
            path = " -> ".join([*shown, shown[0]])
            for node_id, source in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
                name = self._input_from(node_id, source)
                self.errors.setdefault(node_id, []).append(
                    problem(
                        "dependency_cycle",
                        "Dependency cycle detected",
                        f"{name}: each node waits for the next: {path}",
                        node_id=node_id,
                        input_name=name,
                        cycle_nodes=cycle[:LONGEST_CYCLE_SHOWN],
                    )
                )

    def _input_from(self, node_id: str, source: str) -> str:
        inputs = self.checked[node_id].inputs.items()
        return next(n for n, i in inputs if isinstance(i, Link) and i.node_id == source)

    def _check_node(self, node: Node) -> None:
        if node.id in self.errors:
            return
        try:
            checked, errors = self.checker.check(self.checked[node.id])
        except Exception as error:
            self._fail(node, error)
            return
        self.checked[node.id] = checked
        if errors:
            self.errors[node.id] = errors

    def _fail(self, node: Node, error: Exception) -> None:
        inner = "" if self._is_output(node) else "inner_"
        self.errors[node.id] = [
            problem(
                f"exception_during_{inner}validation",
                f"Exception when validating {'inner ' if inner else ''}node",
                f"{type(error).__name__}: {error}",
                exception_type=type(error).__name__,
                exception_message=str(error),
                traceback=traceback.format_tb(error.__traceback__),
            )
        ]

    def _spread(self, order: Iterable[str], left_over: Iterable[str]) -> set[str]:
        """The nodes that cannot run: those with errors, and all that depend on them."""
        bad = set(left_over)
        for node_id in order:
            if node_id in self.errors or any(s in bad for s in self.sources[node_id]):
                bad.add(node_id)
        return bad

    def _node_errors(
        self, failed_outputs: Iterable[str], bad: Collection[str]
    ) -> dict[str, dict[str, Any]]:
        dependent: dict[str, list[str]] = {
            node_id: [] for node_id in self.graph if node_id in self.errors
        }
        for output in failed_outputs:
            for node_id in self._needed([output], among=bad):
                if node_id in dependent:
                    dependent[node_id].append(output)
        return {
            node_id: {
                "errors": self.errors[node_id],
                "dependent_outputs": outputs,
                "class_type": self.graph[node_id].class_type,
                "title": self._name(self.graph[node_id]),
            }
            for node_id, outputs in dependent.items()
        }

    def _needed(self, roots: Iterable[str], among: Collection[str] | None = None) -> set[str]:
        stack = list(roots)
        seen = set(stack)
        while stack:
            for source in self.sources[stack.pop()]:
                if source not in seen and (among is None or source in among):
                    seen.add(source)
                    stack.append(source)
        return seen

    def _summary(self, node_errors: Mapping[str, dict[str, Any]]) -> str:
        return "\n".join(
            f"{error['message']}: node {node_id}, {error['details']}"
            for node_id, found in node_errors.items()
            for error in found["errors"]
        )
