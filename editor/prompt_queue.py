"""Queues prompts, runs them one by one, and keeps their history."""

from __future__ import annotations

import gc
import heapq
import itertools
import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ..headless.execution.executor import Executor
from ..headless.execution.run_graph import Execution
from ..headless.validation.validate import Validation

log = logging.getLogger("sd2_clip")

Send = Callable[[str, dict[str, Any], "str | None"], None]
"""Event, data and client; called from any thread."""

LONGEST_HISTORY = 1_000


@dataclass
class Job:
    """A queued, running or finished prompt. Only the queue changes it."""

    number: float
    prompt: Any
    validation: Validation
    extra_data: dict[str, Any] = field(default_factory=dict)
    client_id: str | None = None
    prompt_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "pending"
    """``pending``, ``in_progress``, ``completed``, ``failed`` or ``cancelled``."""
    created: int = field(default_factory=lambda: _now())
    started: int | None = None
    ended: int | None = None
    node: str | None = None
    """The running node."""
    messages: list[list[Any]] = field(default_factory=list)
    """The ``execution_...`` events, each ``[name, data]``."""
    outputs: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    """The data of ``execution_error``."""
    interrupted: bool = False

    def queue_item(self) -> list[Any]:
        """``[number, id, prompt, extra_data, outputs]``, as ComfyUI lists it."""
        outputs = list(self.validation.outputs)
        return [self.number, self.prompt_id, self.prompt, self.extra_data, outputs]

    def history_item(self) -> dict[str, Any]:
        completed = self.status == "completed"
        return {
            "prompt": self.queue_item(),
            "outputs": self.outputs,
            "meta": self.meta(),
            "status": {
                "status_str": "success" if completed else "error",
                "completed": completed,
                "messages": self.messages,
            },
        }

    def meta(self) -> dict[str, Any]:
        """The node that each of ``outputs`` belongs to: here always itself."""
        return {
            node_id: {
                "node_id": node_id,
                "display_node": node_id,
                "parent_node": None,
                "real_node_id": node_id,
            }
            for node_id in self.outputs
        }


def _now() -> int:
    return int(time.time() * 1000)


class PromptQueue:
    """Runs prompts one after the other, in its own thread. May be used from any thread."""

    def __init__(self, executor: Executor, send: Send) -> None:
        self._executor = executor
        self._send = send
        self._changed = threading.Condition()
        self._pending: list[tuple[float, int, Job]] = []
        self._order = itertools.count()
        self._numbers = itertools.count(1)
        self._running: Job | None = None
        self._history: dict[str, Job] = {}
        self._forget_results = False
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="sd2_clip prompts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Interrupt the running prompt and start no other; False if a node did not stop in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.interrupt()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # Changes

    def next_number(self, *, front: bool) -> float:
        number = next(self._numbers)
        return -number if front else number

    def submit(self, job: Job) -> None:
        with self._changed:
            heapq.heappush(self._pending, (job.number, next(self._order), job))
            self._changed.notify_all()
        self._send_status()

    def cancel(self, prompt_ids: Collection[str]) -> list[str]:
        """Remove prompts from the queue, interrupt the running one; return the ids found."""
        with self._changed:
            found = [job.prompt_id for _, _, job in self._pending if job.prompt_id in prompt_ids]
        for prompt_id in found:
            self.remove(prompt_id)
        with self._changed:
            running = self._running
        if running is not None and running.prompt_id in prompt_ids:
            self.interrupt(running.prompt_id)
            found.append(running.prompt_id)
        return found

    def remove(self, prompt_id: str | None = None) -> None:
        """Remove one waiting prompt, or all, from the queue."""
        with self._changed:
            self._pending = [
                entry
                for entry in self._pending
                if prompt_id is not None and entry[2].prompt_id != prompt_id
            ]
            heapq.heapify(self._pending)
        self._send_status()

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt the running prompt; with *prompt_id*, only if it is that one."""
        with self._changed:
            if self._running is None or prompt_id not in (None, self._running.prompt_id):
                return
            self._running.interrupted = True
            self._executor.interrupt()

    def forget_results(self) -> None:
        """Delete all cached results, now or after the running prompt."""
        with self._changed:
            self._forget_results = True
            self._changed.notify_all()

    def forget_history(self, prompt_id: str | None = None) -> None:
        """Delete one finished prompt, or all, from the history."""
        with self._changed:
            if prompt_id is None:
                self._history.clear()
            else:
                self._history.pop(prompt_id, None)

    # State

    def running(self) -> list[Job]:
        with self._changed:
            return [] if self._running is None else [self._running]

    def pending(self) -> list[Job]:
        with self._changed:
            return [job for _, _, job in sorted(self._pending, key=lambda entry: entry[:2])]

    def history(self) -> list[Job]:
        """Return the finished prompts, the oldest first."""
        with self._changed:
            return list(self._history.values())

    def remaining(self) -> int:
        with self._changed:
            return len(self._pending) + (self._running is not None)

    # The worker

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopping or self._pending or self._forget_results
                )
                if self._stopping:
                    return
                forget, self._forget_results = self._forget_results, False
                job = None
                if self._pending and not forget:
                    job = self._running = heapq.heappop(self._pending)[2]
                    job.status = "in_progress"
                    job.started = _now()
            if forget:
                self._executor.clear()
                gc.collect()
            if job is not None:
                self._run(job)

    def _run(self, job: Job) -> None:
        def listen(event: str, data: dict[str, Any]) -> None:
            if event == "execution_start" and job.interrupted:
                self._executor.interrupt()  # requested before the run had begun
            if event == "executing":
                job.node = data["node"]
            if event == "execution_error":
                job.error = data
            if event.startswith("execution_"):
                job.messages.append([event, data])
            self._send(event, data, job.client_id)

        self._send_status()
        execution: Execution | None = None
        try:
            execution = self._executor.execute(
                job.validation,
                prompt_id=job.prompt_id,
                extra_data=job.extra_data,
                listener=listen,
            )
        except BaseException as error:
            # The thread must survive whatever a node does, SystemExit included.
            log.exception("The prompt %s ended in an unexpected error", job.prompt_id)
            listen("execution_error", _unexpected(job, error))
        self._finish(job, execution)

    def _finish(self, job: Job, execution: Execution | None) -> None:
        status = "error" if execution is None else execution.status
        with self._changed:
            job.status = {"success": "completed", "interrupted": "cancelled"}.get(status, "failed")
            job.ended = _now()
            job.node = None
            if execution is not None:
                job.outputs = execution.outputs
            self._running = None
            self._history[job.prompt_id] = job
            while len(self._history) > LONGEST_HISTORY:
                del self._history[next(iter(self._history))]
        # For clients this means that the history is complete.
        self._send("executing", {"node": None, "prompt_id": job.prompt_id}, job.client_id)
        self._send_status()

    def _send_status(self) -> None:
        self._send("status", {"status": {"exec_info": {"queue_remaining": self.remaining()}}}, None)


def _unexpected(job: Job, error: BaseException) -> dict[str, Any]:
    node = job.validation.graph.get(job.node or "")
    return {
        "prompt_id": job.prompt_id,
        "node_id": job.node or "",
        "node_type": (node.class_type if node else None) or "",
        "executed": [],
        "exception_message": str(error) or type(error).__name__,
        "exception_type": type(error).__name__,
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": _now(),
    }
