"""Runs validated workflows one after the other, and keeps results in between."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from ..validation.validate import Validation
from .events import Listener, ignore
from .result_cache import ResultCache
from .run_graph import Execution, NodeObjects, Run


class Executor:
    """Runs one workflow at a time; what did not change since the last one is not run again."""

    def __init__(self) -> None:
        self._cache = ResultCache()
        self._objects: NodeObjects = {}
        self._interrupt = threading.Event()

    def execute(
        self,
        validation: Validation,
        *,
        prompt_id: str = "",
        extra_data: Mapping[str, Any] | None = None,
        listener: Listener = ignore,
    ) -> Execution:
        """Run the good outputs of a workflow.

        An exception of a node ends the run and is returned. The event ``executing`` with
        ``node: None`` is left to the caller, to send once the result is stored.
        """
        self._interrupt.clear()
        live = {(node.id, node.class_type) for node in validation.graph.values()}
        self._objects = {key: obj for key, obj in self._objects.items() if key in live}
        run = Run(
            validation, self._cache, self._objects, self._interrupt, prompt_id, extra_data, listener
        )
        return run.run()

    def interrupt(self) -> None:
        """Stop the current run, from any thread: before its next node, or at the next progress
        report of the running node."""
        self._interrupt.set()

    def clear(self) -> None:
        """Delete all results and node objects. Not during a run."""
        self._cache.clear()
        self._objects.clear()
