"""Runs the nodes of one validated workflow: which comes next, its arguments, its result.

Nodes run one at a time, depth first from each output in the order of the prompt. So the order is
the same in every run, and an output is written as soon as its own sources are done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...host.interface import progress_sink
from ..graph import Link, Node, Value
from ..node_class import NodeClass
from ..validation.validate import Validation
from ..workflow_errors import Interrupted, NodeContractError
from .call_node import call_node
from .events import Events, Listener
from .node_failure import NodeFailure, describe_failure
from .result_cache import Result, ResultCache, digest_nodes

NodeObjects = dict[tuple[str, str], Any]
"""The instances of node classes, by node id and class name."""


@dataclass(frozen=True)
class Execution:
    """How a run ended, and its results."""

    status: Literal["success", "error", "interrupted"]
    outputs: dict[str, dict[str, list[Any]]]
    """The ``ui`` results by node, of nodes that ran and of output nodes found in the cache."""
    results: dict[str, tuple[list[Any], ...]]
    """What the output nodes returned: a list per output."""
    texts: dict[str, list[str]]
    """What the nodes that ran returned as text, by node."""
    executed: tuple[str, ...]
    """The nodes whose function ran to its end, in that order."""
    cached: tuple[str, ...]
    """The nodes whose result was in the cache before the run."""
    error: NodeFailure | None
    """The exception that ended the run, if ``status`` is ``error``."""


class Run:
    """The state of one run."""

    def __init__(
        self,
        validation: Validation,
        cache: ResultCache,
        objects: NodeObjects,
        interrupt: threading.Event,
        prompt_id: str,
        extra_data: Mapping[str, Any] | None,
        listener: Listener,
    ) -> None:
        self.validation = validation
        self.graph = validation.graph
        self.classes = validation.workflow.classes
        self.cache = cache
        self.objects = objects
        self.interrupt = interrupt
        self.extra_pnginfo = (extra_data or {}).get("extra_pnginfo")
        self.events = Events(listener, prompt_id)
        self.digests: dict[str, bytes | None] = {}
        self.done: dict[str, Result] = {}
        self.executed: list[str] = []
        self.ui: dict[str, dict[str, list[Any]]] = {}

    def run(self) -> Execution:
        self.events.message("execution_start")
        self.digests = digest_nodes(self.graph, self.classes, self._hidden)
        self.cache.begin(self.validation.workflow.prompt.keys(), self.digests)
        cached = tuple(n for n in self.graph if self.cache.get(self.digests[n]) is not None)
        self.events.message("execution_cached", nodes=list(cached))
        status: Literal["success", "error", "interrupted"] = "success"
        error = None
        for node in self._next_nodes():
            arguments: dict[str, list[Any]] = {}
            try:
                self._run_node(node, arguments)
            except Interrupted:
                status = "interrupted"
                self.events.message("execution_interrupted", **self._where(node))
                break
            except Exception as exception:
                status = "error"
                error = describe_failure(node, self.classes.title(node), exception, arguments)
                self.events.message("execution_error", **self._error_data(node, error))
                break
        else:
            self.events.message("execution_success")
        outputs = self.validation.outputs
        return Execution(
            status=status,
            outputs=self.ui,
            results={o: self.done[o].outputs for o in outputs if o in self.done},
            texts={node_id: list(self._texts(node_id)) for node_id in self.executed},
            executed=tuple(self.executed),
            cached=cached,
            error=error,
        )

    # The order of work

    def _next_nodes(self) -> Iterator[Node]:
        """Yield each node that must run, once all its sources are done."""
        for output in self.validation.outputs:
            stack = [output]
            while stack:
                node = self.graph[stack[-1]]
                if node.id in self.done or self._take_from_cache(node):
                    stack.pop()
                    continue
                sources = (i.node_id for i in node.inputs.values() if isinstance(i, Link))
                missing = [s for s in dict.fromkeys(sources) if s not in self.done]
                if missing:
                    stack.extend(reversed(missing))
                else:
                    yield node

    def _take_from_cache(self, node: Node) -> bool:
        result = self.cache.get(self.digests[node.id])
        if result is None:
            return False
        self.done[node.id] = result
        if self._class(node).is_output:
            self.events.executed(node.id, result.ui)
            if result.ui is not None:
                self.ui[node.id] = result.ui
        self.events.finish(node.id)
        return True

    # One node

    def _run_node(self, node: Node, arguments: dict[str, list[Any]]) -> None:
        """Run a node; ``arguments`` is filled with what its function receives."""
        self._check_interrupt()
        cls = self._class(node)
        self.events.start(node.id)
        instance = self._instance(node, cls)
        arguments |= self._arguments(node, cls)

        def report(value: int, maximum: int) -> None:
            self._check_interrupt()
            self.events.progress(node.id, value, maximum)

        token = progress_sink.set(report)
        try:
            result = call_node(cls, instance, arguments, self._check_interrupt)
        finally:
            progress_sink.reset(token)
        if result.ui:
            self.ui[node.id] = result.ui
            self.events.executed(node.id, result.ui)
        self.done[node.id] = result
        self.executed.append(node.id)
        self.cache.put(node.id, self.digests[node.id], result)
        self.events.finish(node.id)

    def _instance(self, node: Node, cls: NodeClass) -> Any:
        key = (node.id, cls.name)
        if key not in self.objects:
            self.objects[key] = cls.cls()
        return self.objects[key]

    def _arguments(self, node: Node, cls: NodeClass) -> dict[str, list[Any]]:
        arguments = {}
        for name, received in node.inputs.items():
            if isinstance(received, Value):
                arguments[name] = [received.value]
            elif isinstance(received, Link):
                arguments[name] = self._output(received, name)
        return arguments | cls.hidden_arguments(self._hidden(node))

    def _hidden(self, node: Node) -> dict[str, Any]:
        return {
            "UNIQUE_ID": node.id,
            "PROMPT": self.validation.workflow.prompt,
            "EXTRA_PNGINFO": self.extra_pnginfo,
        }

    def _output(self, link: Link, input_name: str) -> list[Any]:
        outputs = self.done[link.node_id].outputs
        if not 0 <= link.slot < len(outputs):
            source = self.graph[link.node_id]
            raise NodeContractError(
                f"input '{input_name}' is output {link.slot} of node {source.id} "
                f"({self.classes.title(source)}), which returned {len(outputs)}"
            )
        return outputs[link.slot]

    # Reports

    def _texts(self, node_id: str) -> Iterator[str]:
        kinds = self._class(self.graph[node_id]).return_types
        for kind, values in zip(kinds, self.done[node_id].outputs, strict=False):
            if kind == "STRING":
                yield from (value for value in values if isinstance(value, str))

    def _class(self, node: Node) -> NodeClass:
        return self.classes[node.class_type or ""]

    def _check_interrupt(self) -> None:
        if self.interrupt.is_set():
            raise Interrupted

    def _where(self, node: Node) -> dict[str, Any]:
        return {
            "node_id": node.id,
            "node_type": node.class_type,
            "executed": list(self.executed),
        }

    def _error_data(self, node: Node, failure: NodeFailure) -> dict[str, Any]:
        return {
            **self._where(node),
            "exception_message": failure.message,
            "exception_type": failure.exception_type,
            "traceback": list(failure.traceback),
            "current_inputs": failure.inputs,
            "current_outputs": list(self.done),
        }
