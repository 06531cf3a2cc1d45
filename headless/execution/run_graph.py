"""One run of a prompt: which node is next, calling it, and what it leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...host.interface import progress_sink
from ..graph import Link, Node, Value, parse_link
from ..node_class import NodeClass
from ..validation.validate import Validation
from ..workflow_errors import Interrupted, NodeContractError
from .call_node import (
    Returned,
    call_over_lists,
    merge_ui,
    merge_values,
    read_returned,
    silenced,
)
from .dynamic_prompt import DynamicPrompt
from .events import Events, Listener
from .node_failure import NodeFailure, describe_failure
from .result_cache import Result, ResultCache, digest_nodes


@dataclass(frozen=True)
class Execution:
    """How a run ended, and what it left."""

    status: Literal["success", "error", "interrupted"]
    outputs: dict[str, dict[str, list[Any]]]
    """The ``ui`` results by node, of nodes that ran and of outputs found in the cache."""
    meta: dict[str, dict[str, str | None]]
    """For each of ``outputs``: ``node_id``, ``display_node``, ``parent_node``, ``real_node``, as
    ComfyUI's history has them."""
    results: dict[str, tuple[list[Any], ...]]
    """What the output nodes of the prompt returned: a list per output."""
    executed: tuple[str, ...]
    """The nodes whose function ran to its end, in that order."""
    cached: tuple[str, ...]
    """The nodes whose result was known beforehand."""
    blocked: tuple[NodeFailure, ...]
    """Nodes that were not called because a source blocked them with a message."""
    error: NodeFailure | None
    """The exception that ended the run, if ``status`` is ``error``."""


class _StoppedError(Exception):
    def __init__(self, node_id: str) -> None:
        super().__init__(node_id)
        self.node_id = node_id


class _NodeFailedError(Exception):
    def __init__(self, failure: NodeFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Run:
    """The state of one run."""

    def __init__(
        self,
        validation: Validation,
        cache: ResultCache,
        objects: dict[tuple[str, str], Any],
        interrupt: threading.Event,
        prompt_id: str,
        extra_data: Mapping[str, Any] | None,
        listener: Listener,
    ) -> None:
        self.validation = validation
        self.classes = validation.classes
        self.cache = cache
        self.objects = objects
        self.interrupt = interrupt
        self.extra_pnginfo = (extra_data or {}).get("extra_pnginfo")
        self.prompt = DynamicPrompt(validation.prompt, validation.graph)
        self.events = Events(listener, prompt_id, self.prompt.lineage)
        self.digests: dict[str, bytes | None] = {}
        self.done: dict[str, Result] = {}
        self.waiting: set[str] = set()  # begun, and not done: the path to the node at work
        self.requested: dict[str, set[str]] = {}  # lazy inputs that their node asked for
        self.expansions: dict[str, list[Returned]] = {}
        self.executed: list[str] = []
        self.ui: dict[str, dict[str, list[Any]]] = {}
        self.blocked: list[NodeFailure] = []
        self.was_blocked: set[str] = set()

    def run(self) -> Execution:
        self.events.message("execution_start")
        graph = self.validation.graph
        self.digests = digest_nodes(graph, self.classes, self._hidden)
        self.cache.begin(self.validation.prompt.keys(), self.digests)
        cached = tuple(n for n in graph if self.cache.get(self.digests[n]) is not None)
        self.events.message("execution_cached", nodes=list(cached))
        status: Literal["success", "error", "interrupted"] = "success"
        error = None
        try:
            for output in self.validation.outputs:
                self._evaluate(output)
            self.events.message("execution_success")
        except _NodeFailedError as failed:
            status, error = "error", failed.failure
            self.events.message("execution_error", **self._error_data(error))
        except _StoppedError as stopped:
            status = "interrupted"
            self.events.message("execution_interrupted", **self._where(stopped.node_id))
        return Execution(
            status=status,
            outputs=self.ui,
            meta={node_id: self._meta(node_id) for node_id in self.ui},
            results={o: self.done[o].outputs for o in self.validation.outputs if o in self.done},
            executed=tuple(self.executed),
            cached=cached,
            blocked=tuple(self.blocked),
            error=error,
        )

    # The order of work

    def _evaluate(self, root: str) -> None:
        stack = [root]
        while stack:
            node_id = stack[-1]
            if node_id in self.done or self._take_from_cache(node_id):
                stack.pop()
                continue
            needed = self._needed_first(node_id) if node_id not in self.waiting else []
            self.waiting.add(node_id)
            if not needed:
                needed = self._advance(node_id)
            for source in needed:
                if source in self.waiting:
                    raise self._failed(
                        node_id,
                        NodeContractError(f"it needs node {source}, which itself waits for it"),
                    )
            stack.extend(reversed(needed))

    def _take_from_cache(self, node_id: str) -> bool:
        if node_id in self.waiting:
            return False
        result = self.cache.get(self.digests.get(node_id))
        if result is None:
            return False
        self.done[node_id] = result
        if self._class(node_id).is_output:
            self.events.executed(node_id, result.ui)
            if result.ui is not None:
                self.ui[node_id] = result.ui
        self.events.finish(node_id)
        return True

    def _needed_first(self, node_id: str) -> list[str]:
        """The sources of the inputs that are not lazy, as far as they are not there yet."""
        cls = self._class(node_id)
        sources: dict[str, None] = {}
        for name, received in self.prompt.graph[node_id].inputs.items():
            if isinstance(received, Link):
                spec = cls.spec(name)
                if spec is None or not spec.is_lazy:
                    sources[received.node_id] = None
        return [source for source in sources if source not in self.done]

    # One node

    def _advance(self, node_id: str) -> list[str]:
        """Take a node as far as it goes: to its result, or to what it turns out to need first."""
        arguments: dict[str, list[Any]] | None = None
        node = self.prompt.graph[node_id]
        try:
            self._check_interrupt()
            cls = self._class(node_id)
            if node_id in self.expansions:
                self._complete(node_id, self._resolve_expansion(node_id, cls))
                return []
            self.events.start(node_id)
            obj = self._object(node, cls)
            arguments, unseen = self._arguments(node, cls)
            while wanted := self._newly_wanted(node, cls, obj, arguments, unseen):
                self.requested.setdefault(node_id, set()).update(wanted)
                sources = dict.fromkeys(wanted.values())
                missing = [source for source in sources if source not in self.done]
                if missing:
                    return missing
                arguments, unseen = self._arguments(node, cls)
            return self._call(node, cls, obj, arguments)
        except Interrupted as stop:
            raise _StoppedError(node_id) from stop
        except Exception as error:
            raise self._failed(node_id, error, arguments) from error

    def _object(self, node: Node, cls: NodeClass) -> Any:
        key = (node.id, cls.name)
        if key not in self.objects:
            self.objects[key] = cls.cls()
        return self.objects[key]

    def _arguments(self, node: Node, cls: NodeClass) -> tuple[dict[str, list[Any]], set[str]]:
        """The lists to call with, and the names of lazy inputs that were not asked for (None)."""
        arguments: dict[str, list[Any]] = {}
        unseen = set()
        requested = self.requested.get(node.id, ())
        for name, received in node.inputs.items():
            if isinstance(received, Value):
                arguments[name] = [received.value]
            elif isinstance(received, Link):
                spec = cls.spec(name)
                if spec is not None and spec.is_lazy and name not in requested:
                    arguments[name] = [None]
                    unseen.add(name)
                elif spec is not None and spec.options.get("rawLink"):
                    arguments[name] = [[received.node_id, received.slot]]
                else:
                    arguments[name] = self._output(received, f"input '{name}'")
        return arguments | cls.hidden_arguments(self._hidden(node)), unseen

    def _hidden(self, node: Node) -> dict[str, Any]:
        return {
            "UNIQUE_ID": node.id,
            "PROMPT": self.validation.prompt,
            "DYNPROMPT": self.prompt,
            "EXTRA_PNGINFO": self.extra_pnginfo,
        }

    def _output(self, link: Link, wanted_by: str) -> list[Any]:
        outputs = self.done[link.node_id].outputs
        if not 0 <= link.slot < len(outputs):
            source = self.prompt.graph[link.node_id]
            raise NodeContractError(
                f"{wanted_by} is output {link.slot} of node {source.id} "
                f"({self.classes.title(source)}), which returned {len(outputs)}"
            )
        return outputs[link.slot]

    def _newly_wanted(
        self,
        node: Node,
        cls: NodeClass,
        obj: Any,
        arguments: Mapping[str, list[Any]],
        unseen: Collection[str],
    ) -> dict[str, str]:
        """The lazy inputs, with their sources, that ``check_lazy_status`` asks for in addition."""
        if not hasattr(obj, "check_lazy_status"):
            return {}
        answers = self._call_function(node, cls, obj.check_lazy_status, arguments)
        wanted = {}
        for name in (name for part in answers if isinstance(part, list) for name in part):
            received = node.inputs.get(name)
            if name not in arguments:
                raise NodeContractError(f"input '{name}' is needed and is not connected")
            if name in unseen and isinstance(received, Link):
                wanted[name] = received.node_id
        return wanted

    def _call(
        self, node: Node, cls: NodeClass, obj: Any, arguments: Mapping[str, list[Any]]
    ) -> list[str]:
        def report_block(blocker: Any) -> Any:
            self.was_blocked.add(node.id)
            if getattr(blocker, "message", None) is not None:
                error = NodeContractError(f"Execution Blocked: {blocker.message}")
                failure = self._failure(node.id, error, None)
                self.blocked.append(failure)
                data = self._error_data(failure) | {"exception_type": "ExecutionBlocked"}
                self.events.message("execution_error", **data)
            return silenced(blocker)

        function = getattr(obj, cls.function)
        raw = self._call_function(node, cls, function, arguments, on_blocked=report_block)
        returned = [read_returned(result, cls) for result in raw]
        ui = merge_ui([part.ui for part in returned if part.ui])
        if ui:
            self.ui[node.id] = ui
            self.events.executed(node.id, ui)
        if any(part.expand is not None for part in returned):
            return self._begin_expansion(node, returned)
        outputs = merge_values([p.values for p in returned if p.values is not None], cls)
        self._complete(node.id, Result(outputs, ui or None))
        return []

    def _call_function(
        self,
        node: Node,
        cls: NodeClass,
        function: Any,
        arguments: Mapping[str, list[Any]],
        on_blocked: Callable[[Any], Any] = lambda blocker: blocker,
    ) -> list[Any]:
        def report(value: int, maximum: int) -> None:
            self._check_interrupt()
            self.events.progress(node.id, value, maximum)

        token = progress_sink.set(report)
        try:
            return call_over_lists(
                function,
                arguments,
                whole_lists=cls.input_is_list,
                before_call=self._check_interrupt,
                on_blocked=on_blocked,
            )
        finally:
            progress_sink.reset(token)

    def _complete(self, node_id: str, result: Result) -> None:
        self.done[node_id] = result
        self.waiting.discard(node_id)
        self.executed.append(node_id)
        if node_id not in self.was_blocked:
            # A blocked node is blocked anew next time, so that its message is seen again.
            self.cache.put(node_id, self.digests.get(node_id), result)
        self.events.finish(node_id)

    # Expansion

    def _begin_expansion(self, node: Node, returned: list[Returned]) -> list[str]:
        """Add the new nodes; what they must give first is their outputs and linked results."""
        needed: dict[str, None] = {}
        for part in returned:
            if part.expand is None:
                continue
            needed |= dict.fromkeys(self.prompt.expand(node.id, part.expand, self.classes))
            for slot, value in enumerate(part.values or ()):
                link = parse_link(value)
                if link is not None:
                    if link.node_id not in self.prompt.graph:
                        raise NodeContractError(
                            f"output {slot} of its expansion comes from node {link.node_id}, "
                            "which does not exist"
                        )
                    needed[link.node_id] = None
        self.expansions[node.id] = returned
        return [source for source in needed if source not in self.done]

    def _resolve_expansion(self, node_id: str, cls: NodeClass) -> Result:
        outputs: list[list[Any]] = [[] for _ in cls.return_types]
        for part in self.expansions.pop(node_id):
            for slot, value in enumerate((part.values or ())[: len(outputs)]):
                link = None if part.expand is None else parse_link(value)
                if link is not None:
                    outputs[slot] += self._output(link, f"output {slot} of its expansion")
                else:
                    outputs[slot] += value if cls.output_is_list[slot] else [value]
        return Result(tuple(outputs), self.ui.get(node_id))

    # Reports

    def _class(self, node_id: str) -> NodeClass:
        return self.classes[self.prompt.graph[node_id].class_type or ""]

    def _check_interrupt(self) -> None:
        if self.interrupt.is_set():
            raise Interrupted

    def _failed(
        self, node_id: str, error: Exception, arguments: Mapping[str, list[Any]] | None = None
    ) -> _NodeFailedError:
        return _NodeFailedError(self._failure(node_id, error, arguments))

    def _failure(
        self, node_id: str, error: Exception, arguments: Mapping[str, list[Any]] | None
    ) -> NodeFailure:
        node = self.prompt.graph[self.prompt.get_real_node_id(node_id)]
        return describe_failure(node, self.classes.title(node), error, arguments)

    def _where(self, node_id: str) -> dict[str, Any]:
        real = self.prompt.get_real_node_id(node_id)
        return {
            "node_id": real,
            "node_type": self.prompt.graph[real].class_type,
            "executed": list(self.executed),
        }

    def _error_data(self, failure: NodeFailure) -> dict[str, Any]:
        return {
            **self._where(failure.node_id),
            "exception_message": failure.message,
            "exception_type": failure.exception_type,
            "traceback": list(failure.traceback),
            "current_inputs": failure.inputs,
            "current_outputs": list(self.done),
        }

    def _meta(self, node_id: str) -> dict[str, str | None]:
        lineage = self.prompt.lineage(node_id)
        return {
            "node_id": node_id,
            "display_node": lineage["display_node_id"],
            "parent_node": lineage["parent_node_id"],
            "real_node_id": lineage["real_node_id"],
        }
