"""Runs a validated prompt with ComfyUI's semantics: lists, lazy inputs, blockers, expansion,
``ui`` results, results cached by content, interruption.

Nodes run one at a time, depth first from each output in the order of the prompt, so the order is
the same in every run and an output is written as soon as its own sources are there.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

from ..validation.validate import Validation, validate
from .events import Listener, ignore
from .result_cache import ResultCache
from .run_graph import Execution, Run

__all__ = ["Execution", "Executor"]


class Executor:
    """Validates and runs prompts over one set of node classes, one prompt at a time."""

    def __init__(
        self, node_classes: Mapping[str, type], *, cache: ResultCache | None = None
    ) -> None:
        self.node_classes = node_classes
        self._cache = ResultCache() if cache is None else cache
        self._objects: dict[tuple[str, str], Any] = {}
        self._interrupt = threading.Event()

    def validate(self, prompt: Any, *, targets: Collection[str] | None = None) -> Validation:
        """Check a prompt for all its output nodes, or only for those in ``targets``."""
        return validate(prompt, self.node_classes, targets)

    def execute(
        self,
        validation: Validation,
        *,
        prompt_id: str = "",
        extra_data: Mapping[str, Any] | None = None,
        listener: Listener = ignore,
    ) -> Execution:
        """Run the good outputs of a prompt. An exception of a node ends the run and is returned.

        Not from the thread of a running event loop: nodes may be coroutine functions. The event
        ``executing`` with ``node: None`` is left to the caller, to send when the result is kept.
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
        report of the node at work."""
        self._interrupt.set()

    def clear(self) -> None:
        """Forget all results and node objects. Not during a run."""
        self._cache.clear()
        self._objects.clear()
