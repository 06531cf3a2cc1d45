"""Sends the events of a run to its listener, with ComfyUI's names and payloads."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

Listener = Callable[[str, dict[str, Any]], None]
"""Called with an event name and its data, in the thread that runs the prompt."""

MOST_NODES_IN_STATE = 256
"""Every ``progress_state`` lists all nodes so far in ComfyUI, which is quadratic; here it lists
those that changed last."""


def ignore(event: str, data: dict[str, Any]) -> None:
    """Listen to nothing."""


class Events:
    """Sends the events of one run."""

    def __init__(self, listener: Listener, prompt_id: str) -> None:
        self._listener = listener
        self._prompt_id = prompt_id
        self._states: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def message(self, event: str, **data: Any) -> None:
        """Send an ``execution_...`` event, with the time in milliseconds."""
        data = {"prompt_id": self._prompt_id, **data, "timestamp": int(time.time() * 1000)}
        self._listener(event, data)

    def start(self, node_id: str) -> None:
        self._listener(
            "executing",
            {"node": node_id, "display_node": node_id, "prompt_id": self._prompt_id},
        )
        self._state(node_id, "running", 0.0, 1.0)

    def progress(self, node_id: str, value: float, maximum: float) -> None:
        self._state(node_id, "running", value, maximum)
        self._listener(
            "progress",
            {"value": value, "max": maximum, "prompt_id": self._prompt_id, "node": node_id},
        )

    def finish(self, node_id: str) -> None:
        last = self._states.get(node_id)
        maximum = last["max"] if last else 1.0
        self._state(node_id, "finished", maximum, maximum)

    def executed(self, node_id: str, ui: dict[str, list[Any]] | None) -> None:
        self._listener(
            "executed",
            {
                "node": node_id,
                "display_node": node_id,
                "output": ui,
                "prompt_id": self._prompt_id,
            },
        )

    def _state(self, node_id: str, state: str, value: float, maximum: float) -> None:
        if self._listener is ignore:
            return
        self._states[node_id] = {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": node_id,
            "prompt_id": self._prompt_id,
            # These differ where nodes expand into others, which they do not here.
            "display_node_id": node_id,
            "parent_node_id": None,
            "real_node_id": node_id,
        }
        self._states.move_to_end(node_id)
        if len(self._states) > MOST_NODES_IN_STATE:
            self._states.popitem(last=False)
        self._listener(
            "progress_state", {"prompt_id": self._prompt_id, "nodes": dict(self._states)}
        )
