"""Calling a node's function as ComfyUI does: over lists of inputs, and sync or async alike."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..node_class import NodeClass
from ..workflow_errors import NodeContractError

Arguments = Mapping[str, list[Any]]
"""Every input is a list: what its source gave, or one value of the workflow."""


def call_over_lists(
    function: Callable[..., Any],
    arguments: Arguments,
    *,
    whole_lists: bool,
    before_call: Callable[[], None] = lambda: None,
    on_blocked: Callable[[Any], Any] = lambda blocker: blocker,
) -> list[Any]:
    """One call per item of the longest list; shorter lists repeat their last item.

    With ``whole_lists`` (``INPUT_IS_LIST``) there is one call, with the lists themselves. A call
    that receives an execution blocker is not made: what ``on_blocked`` makes of the blocker is
    its result. The coroutines of one node run together, so this must not be called from an event
    loop's thread.
    """
    results: list[Any] = []
    pending: list[int] = []
    try:
        for keywords in _calls(arguments, whole_lists=whole_lists):
            blocker = _find_blocker(keywords, whole_lists=whole_lists)
            if blocker is not None:
                results.append(on_blocked(blocker))
                continue
            before_call()
            result = function(**keywords)
            if inspect.isawaitable(result):
                pending.append(len(results))
            results.append(result)
        if pending:
            finished = asyncio.run(_gather([results[i] for i in pending]))
            for i, result in zip(pending, finished, strict=True):
                results[i] = result
    except BaseException:
        for i in pending:
            if inspect.iscoroutine(results[i]):
                results[i].close()
        raise
    return results


async def _gather(awaitables: list[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*awaitables)


def _calls(arguments: Arguments, *, whole_lists: bool) -> Iterator[dict[str, Any]]:
    if whole_lists:
        yield dict(arguments)
        return
    empty = [name for name, values in arguments.items() if not values]
    if empty:
        raise NodeContractError(
            f"input '{empty[0]}' received an empty list: there is nothing to call the node with"
        )
    for i in range(max(map(len, arguments.values()), default=1)):
        yield {name: values[min(i, len(values) - 1)] for name, values in arguments.items()}


def is_blocker(value: Any) -> bool:
    """Whether this is ComfyUI's ``ExecutionBlocker`` or one like it. Told by its name, because
    packs bring the class of whatever host they were written for."""
    return type(value).__name__ == "ExecutionBlocker"


def silenced(blocker: Any) -> Any:
    """The same blocker without its message, once that was reported."""
    if getattr(blocker, "message", None) is None:
        return blocker
    silent = copy.copy(blocker)
    silent.message = None
    return silent


def _find_blocker(keywords: Mapping[str, Any], *, whole_lists: bool) -> Any | None:
    for value in keywords.values():
        for item in value if whole_lists else (value,):
            if is_blocker(item):
                return item
    return None


@dataclass(frozen=True, slots=True)
class Returned:
    """One call's return value, taken apart."""

    values: tuple[Any, ...] | None
    """One item per output; None if the call returned only ``ui``."""
    ui: Mapping[str, Any] | None = None
    expand: Mapping[str, Any] | None = None
    """More nodes to run, in API format; ``values`` may then hold links to them."""


def read_returned(returned: Any, cls: NodeClass) -> Returned:
    """Understand a tuple, ``{"ui", "result", "expand"}``, a blocker, or None for no outputs."""
    if isinstance(returned, dict):
        result = returned.get("result")
        values = None if result is None else _as_values(result, cls)
        return Returned(values, returned.get("ui"), returned.get("expand"))
    if returned is None and not cls.return_types:
        return Returned(())
    return Returned(_as_values(returned, cls))


def _as_values(result: Any, cls: NodeClass) -> tuple[Any, ...]:
    if is_blocker(result):
        return (result,) * len(cls.return_types)
    if not isinstance(result, (tuple, list)):
        raise NodeContractError(
            f"{cls.name}.{cls.function} returned {type(result).__name__}; a node returns a tuple "
            "with one item per output"
        )
    return tuple(result)


def merge_values(rows: list[tuple[Any, ...]], cls: NodeClass) -> tuple[list[Any], ...]:
    """The outputs of a node over all its calls: a list per output, ``OUTPUT_IS_LIST`` ones
    joined end to end."""
    if not rows:
        return ()
    merged = []
    for slot in range(min(map(len, rows))):
        column = [row[slot] for row in rows]
        if slot < len(cls.output_is_list) and cls.output_is_list[slot]:
            merged.append([item for part in column for item in _as_list(part, cls, slot)])
        else:
            merged.append(column)
    return tuple(merged)


def _as_list(part: Any, cls: NodeClass, slot: int) -> list[Any]:
    if is_blocker(part):
        return [part]
    if not isinstance(part, (list, tuple)):
        raise NodeContractError(
            f"{cls.name}: output {slot} is declared a list (OUTPUT_IS_LIST) and is "
            f"{type(part).__name__}"
        )
    return list(part)


def merge_ui(parts: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The ``ui`` of a node over all its calls: the lists of each key, end to end."""
    merged: dict[str, list[Any]] = {}
    for part in parts:
        for key, items in part.items():
            merged.setdefault(key, []).extend(items)
    return merged
