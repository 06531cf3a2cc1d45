"""Validates a prompt before anything runs, with ComfyUI's checks, in linear time.

ComfyUI refuses the whole prompt for one node that is not installed. Here the outputs that do not
depend on it can still run; the node is reported either way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from ...sd2.errors import plain_text
from ...sd2.files.limits import MAX_DEPENDENTS
from ..graph import Graph, Link, Node
from ..topological import find_cycles, sort_sources_first
from ..workflow import Workflow
from .check_node import check_node
from .problems import BadNode, InputProblem, NodeProblem, Problem

LONGEST_CYCLE_SHOWN = 20
"""Nodes. Every node of a cycle reports the whole cycle."""

LONGEST_LIST_SHOWN = 100
"""Nodes of classes that are not installed, and lines of what is wrong with all outputs."""


@dataclass(frozen=True)
class Validation:
    """What is wrong with a workflow, and which part of it can run."""

    workflow: Workflow
    graph: Graph
    """The nodes that the good outputs depend on, each after its sources: values are coerced,
    inputs that the class does not take are dropped."""
    outputs: tuple[str, ...]
    """The output nodes that can run, in the order of the prompt."""
    error: NodeProblem | None
    """Why no output can run; None if one can."""
    bad_nodes: Mapping[str, BadNode]
    """By id, in the order of the prompt. Some may be bad although others can run."""
    notes: tuple[str, ...]
    """What is ignored without being an error."""

    @property
    def ok(self) -> bool:
        """Whether at least one output can run."""
        return self.error is None

    def lines(self) -> list[str]:
        """The errors for a person to read, one per line, with node and title.

        Unused nodes count only if nothing can run.
        """
        if self.error is not None and not self.bad_nodes:
            return [plain_text(str(self.error))]
        return [
            plain_text(f"node {node_id} ({bad.title}): {problem}")
            for node_id, bad in self.bad_nodes.items()
            for problem in bad.problems
            if not (self.ok and bad.is_unused)
        ]


def validate(workflow: Workflow, targets: Collection[str] | None = None) -> Validation:
    """Validate for all output nodes, or only for those in ``targets``.

    Nothing is raised for a bad workflow: everything is in the result.
    """
    return _Validator(workflow).run(targets)


class _Validator:
    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        self.graph = workflow.graph
        self.classes = workflow.classes
        self.problems: dict[str, list[Problem]] = {}
        self.notes: list[str] = []
        self.checked: dict[str, Node] = {}
        self.sources: dict[str, list[str]] = {}

    def run(self, targets: Collection[str] | None) -> Validation:
        absent = [node for node in self.graph.values() if node.class_type not in self.classes]
        for node in absent:
            self.problems[node.id] = [self._not_installed(node)]
        wanted = [
            node.id
            for node in self.graph.values()
            if self._is_output(node) and (targets is None or node.id in targets)
        ]
        self._find_sources(wanted)
        order, unsorted = sort_sources_first(self.sources)
        self._report_cycles(unsorted)
        for node_id in order:
            self._check_node(self.graph[node_id])
        bad = self._spread(order, unsorted)
        outputs = [output for output in wanted if output not in bad]
        bad_nodes = self._bad_nodes([output for output in wanted if output in bad], bad)
        error = None
        if not outputs:
            # A class that is not installed is the first thing to report.
            reached = [node for node in absent if node.id in self.sources or not wanted]
            error = self._not_installed(*reached) if reached else self._no_output(wanted, bad_nodes)
        else:
            self.notes += [
                f"node {node_id} ({bad.title}): class {bad.node.class_type!r} is not installed, "
                "and nothing reads from this node; left out"
                for node_id, bad in bad_nodes.items()
                if bad.is_unused
            ]
        needed = self._needed(outputs)
        return Validation(
            self.workflow,
            graph={node_id: self.checked[node_id] for node_id in order if node_id in needed},
            outputs=tuple(outputs),
            error=error,
            bad_nodes=bad_nodes,
            notes=tuple(self.notes),
        )

    def _not_installed(self, *nodes: Node) -> NodeProblem:
        if len(nodes) > 1:
            message = f"{len(nodes)} nodes are of classes that are not installed"
            shown = [f"{node.id} ({self._title(node)})" for node in nodes[:LONGEST_LIST_SHOWN]]
            more = len(nodes) - len(shown)
            details = ", ".join(shown) + (f" and {more} more" if more else "")
            return NodeProblem("missing_node_type", message, details, not_installed=nodes)
        (node,) = nodes
        if node.class_type is None:
            message = f"Node '{node.title or node.id}' has no class_type"
        else:
            title = f" ('{node.title}')" if node.title not in (None, node.class_type) else ""
            message = f"Node class '{node.class_type}'{title} is not installed"
            if (similar := self.classes.like(node.class_type)) is not None:
                message += f" (did you mean '{similar}'?)"
        details = f"Node ID '#{node.id}'"
        return NodeProblem("missing_node_type", message, details, not_installed=nodes)

    def _no_output(self, wanted: Collection[str], bad_nodes: Mapping[str, BadNode]) -> NodeProblem:
        if not wanted:
            return NodeProblem("prompt_no_outputs", "Prompt has no outputs")
        found = [
            f"{problem.message}: {problem.details}"
            for output in wanted
            for problem in self.problems.get(output, ())
        ] or [
            f"{problem.message}: node {node_id}, {problem.details}"
            for node_id, bad in bad_nodes.items()
            for problem in bad.problems
        ]
        lines = found[:LONGEST_LIST_SHOWN]
        return NodeProblem(
            "prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(lines)
        )

    def _title(self, node: Node) -> str:
        return self.classes.title(node)

    def _is_output(self, node: Node) -> bool:
        # Read from the Python class: INPUT_TYPES may raise, which is reported at the node.
        cls = self.classes.raw(node.class_type)
        return getattr(cls, "OUTPUT_NODE", False) is True

    def _find_sources(self, outputs: Iterable[str]) -> None:
        """Fill ``self.sources`` for every node that an output depends on."""
        stack = list(outputs)
        seen = set(stack)
        while stack:
            node_id = stack.pop()
            sources = self._sources_of(self.graph[node_id])
            self.sources[node_id] = sources
            for source in sources:
                if source not in seen:
                    seen.add(source)
                    stack.append(source)

    def _sources_of(self, node: Node) -> list[str]:
        if node.class_type not in self.classes:
            return []
        try:
            node, surplus = self.classes[node.class_type or ""].strip(node)
        except Exception as error:
            self._report_exception(node, error)
            return []
        self.notes += [
            f"node {node.id} ({self._title(node)}): {node.class_type} has no input '{name}'; "
            "ignored"
            for name in surplus
        ]
        self.checked[node.id] = node
        links = dict.fromkeys(i.node_id for i in node.inputs.values() if isinstance(i, Link))
        return [source for source in links if source in self.graph]

    def _report_cycles(self, unsorted: Collection[str]) -> None:
        for cycle in find_cycles(unsorted, self.sources):
            shown = [f"{id} ({self._title(self.graph[id])})" for id in cycle[:LONGEST_CYCLE_SHOWN]]
            if len(cycle) > LONGEST_CYCLE_SHOWN:
                shown.append(f"... {len(cycle)} nodes in all ...")
            path = " -> ".join([*shown, shown[0]])
            for node_id, source in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
                name = self._input_from(node_id, source)
                self.problems.setdefault(node_id, []).append(
                    InputProblem(
                        "dependency_cycle",
                        "Dependency cycle detected",
                        f"{name}: each node waits for the next: {path}",
                        name,
                        cycle=tuple(cycle[:LONGEST_CYCLE_SHOWN]),
                    )
                )

    def _input_from(self, node_id: str, source: str) -> str:
        inputs = self.checked[node_id].inputs.items()
        return next(n for n, i in inputs if isinstance(i, Link) and i.node_id == source)

    def _check_node(self, node: Node) -> None:
        if node.id in self.problems:
            return
        try:
            checked, problems = check_node(self.checked[node.id], self.workflow)
        except Exception as error:
            self._report_exception(node, error)
            return
        self.checked[node.id] = checked
        if problems:
            self.problems[node.id] = problems

    def _report_exception(self, node: Node, error: Exception) -> None:
        inner = "" if self._is_output(node) else "inner"
        self.problems[node.id] = [
            NodeProblem(
                "_".join(filter(None, ("exception_during", inner, "validation"))),
                " ".join(filter(None, ("Exception when validating", inner, "node"))),
                f"{type(error).__name__}: {error}",
                exception=error,
            )
        ]

    def _spread(self, order: Iterable[str], unsorted: Iterable[str]) -> set[str]:
        """Collect the nodes that cannot run: those with problems, and all that depend on them."""
        bad = set(unsorted)
        for node_id in order:
            if node_id in self.problems or any(s in bad for s in self.sources[node_id]):
                bad.add(node_id)
        return bad

    def _bad_nodes(self, failed_outputs: Iterable[str], bad: Collection[str]) -> dict[str, BadNode]:
        dependent: dict[str, list[str]] = {
            node_id: [] for node_id in self.graph if node_id in self.problems
        }
        walked = 0
        for output in failed_outputs:
            if walked > MAX_DEPENDENTS:  # each of many outputs may depend on each of many nodes
                break
            needed = self._needed([output], among=bad)
            walked += len(needed)
            for node_id in needed:
                if node_id in dependent:
                    dependent[node_id].append(output)
        return {
            node_id: BadNode(
                self.graph[node_id],
                self._title(self.graph[node_id]),
                tuple(self.problems[node_id]),
                tuple(outputs),
                self._is_unused(self.graph[node_id]),
            )
            for node_id, outputs in dependent.items()
        }

    def _is_unused(self, node: Node) -> bool:
        """Whether the run is complete without this node. A class name like that of an installed
        class is rather a misspelt node that somebody wants."""
        if node.class_type is None or node.class_type in self.classes:
            return False
        return node.id not in self._read_ids and self.classes.like(node.class_type) is None

    @cached_property
    def _read_ids(self) -> set[str]:
        """The ids of all nodes that an input is linked to."""
        return {
            received.node_id
            for node in self.graph.values()
            for received in node.inputs.values()
            if isinstance(received, Link)
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
