"""Calls a node's function over its lists of inputs, and reads what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..node_class import Arguments, NodeClass
from ..workflow_errors import NodeContractError
from .result_cache import Result


def call_node(
    cls: NodeClass, node: Any, arguments: Arguments, before_call: Callable[[], None]
) -> Result:
    """Call the function of ``node``, an instance of the class, and merge what its calls return.

    A node returns a tuple with an item per output, or ``{"ui": ..., "result": tuple}``.
    """
    returned = cls.call(getattr(node, cls.function), arguments, before_call)
    rows = []
    ui: dict[str, list[Any]] = {}
    for one in returned:
        values: Any = one
        if isinstance(one, dict):
            if one.get("expand") is not None:
                raise NodeContractError(
                    f"{cls.name} expands into other nodes, which this runner does not support; "
                    "run the workflow in ComfyUI"
                )
            values = one.get("result")
            _merge_ui(ui, one.get("ui") or {})
            if values is None:
                continue
        elif one is None and not cls.return_types:
            values = ()
        rows.append(_check_row(values, cls))
    return Result(_merge_rows(rows, cls), ui or None)


def _merge_ui(merged: dict[str, list[Any]], ui: Mapping[str, Sequence[Any]]) -> None:
    for key, items in ui.items():
        merged.setdefault(key, []).extend(items)


def _check_row(values: Any, cls: NodeClass) -> tuple[Any, ...]:
    if not isinstance(values, (tuple, list)):
        raise NodeContractError(
            f"{cls.name}.{cls.function} returned {type(values).__name__}; a node returns a tuple "
            "with one item per output"
        )
    return tuple(values)


def _merge_rows(rows: list[tuple[Any, ...]], cls: NodeClass) -> tuple[list[Any], ...]:
    """Make one list per output; those of ``OUTPUT_IS_LIST`` outputs are concatenated."""
    if not rows:
        return ()
    merged = []
    for slot in range(min(map(len, rows))):
        column = [row[slot] for row in rows]
        if slot < len(cls.output_is_list) and cls.output_is_list[slot]:
            column = [item for part in column for item in _check_list(part, cls, slot)]
        merged.append(column)
    return tuple(merged)


def _check_list(part: Any, cls: NodeClass, slot: int) -> Sequence[Any]:
    if not isinstance(part, (list, tuple)):
        raise NodeContractError(
            f"{cls.name}: output {slot} is declared a list (OUTPUT_IS_LIST), but the function "
            f"returned {type(part).__name__}"
        )
    return part
