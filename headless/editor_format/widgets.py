"""Reads the widget values of a saved node, by name.

The editor saves them by position, for the widgets that it created from ``INPUT_TYPES`` and some of
its own that are not part of a prompt. Newer editors also save them by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..node_class import InputSpec, NodeClass
from .document import UiNode

# Input types for which the editor (1.58) creates a widget.
WIDGET_TYPES = frozenset(
    [
        *("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"),
        *("MARKDOWN", "TEXTAREA", "COLOR", "COLORS", "CURVE", "RANGE", "CHART", "GALLERIA"),
        *("BOUNDING_BOX", "BOUNDING_BOXES", "PAINTER", "COMPOSITOR", "IMAGECOMPARE"),
        "IMAGEUPLOAD",
    ]
)

CONTROL_MODES = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
"""The values of the widget ``control_after_generate``, which comes after seeds."""


@dataclass(frozen=True, slots=True)
class WidgetSlot:
    """One saved position: the widget of an input, or a widget of the editor's own."""

    name: str
    spec: InputSpec | None
    """None for the widgets ``control_after_generate`` and ``control_filter_list``."""


def input_type(spec: InputSpec) -> str:
    """Return the editor's name for the type of an input."""
    if spec.choices is not None:
        return "COMBO"
    return str(spec.type)


def has_widget(spec: InputSpec) -> bool:
    if spec.options.get("forceInput"):
        return False
    return spec.options.get("widgetType", input_type(spec)) in WIDGET_TYPES


def is_dynamic_prompt(spec: InputSpec) -> bool:
    """Whether the editor resolves choices and comments in the text of this widget."""
    return spec.type == "STRING" and spec.options.get("dynamicPrompts") is True


def widget_slots(cls: NodeClass) -> list[WidgetSlot]:
    """List all positions of ``widgets_values`` for this class."""
    return [slot for spec in cls.inputs if has_widget(spec) for slot in _slots_of(spec)]


def _slots_of(spec: InputSpec) -> Iterator[WidgetSlot]:
    yield WidgetSlot(spec.name, spec)
    kind = spec.options.get("widgetType", input_type(spec))
    controlled = spec.options.get(
        "control_after_generate", kind == "INT" and spec.name in ("seed", "noise_seed")
    )
    if controlled and kind in ("INT", "FLOAT", "COMBO"):
        yield WidgetSlot("control_after_generate", None)
        if kind == "COMBO":
            yield WidgetSlot("control_filter_list", None)


def widget_values(node: UiNode, cls: NodeClass) -> tuple[dict[str, Any], int]:
    """Return the value of every widget of a node, its default where none is saved; and the number
    of saved values that no widget has."""
    slots = widget_slots(cls)
    saved: dict[str, Any] = {}
    surplus = 0
    if isinstance(node.values, list):
        saved, surplus = _by_position(_without_retired(node.values, cls), slots, cls)
    elif isinstance(node.values, dict):
        saved = dict(node.values)
    if any(option.endswith("_upload") for spec in cls.inputs for option in spec.options):
        surplus = 0  # the value of the editor's upload button
    if node.named_values is not None and not _fits(saved, surplus, slots):
        saved, surplus = saved | node.named_values, 0
    values: dict[str, Any] = {}
    for slot in slots:
        if slot.spec is None:
            continue
        value = saved[slot.name] if slot.name in saved else default_value(slot.spec)
        if slot.name in saved or value is not None:
            values[slot.name] = value
    return values, surplus


def _fits(saved: Mapping[str, Any], surplus: int, slots: list[WidgetSlot]) -> bool:
    """Whether the values by position fit the widgets of this class.

    If so, they count, not the values by name: people and programs edit values by position. If the
    class has changed since, names are more reliable.
    """
    return surplus == 0 and all(
        slot.name in saved and _may_hold(slot.spec, saved[slot.name])
        for slot in slots
        if slot.spec is not None
    )


def _may_hold(spec: InputSpec, value: Any) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {
        "INT": (int, float),
        "FLOAT": (int, float),
        "STRING": str,
        "BOOLEAN": bool,
    }
    kind = kinds.get(input_type(spec))
    return kind is None or (isinstance(value, kind) and (kind is bool or type(value) is not bool))


def _by_position(
    values: list[Any], slots: list[WidgetSlot], cls: NodeClass
) -> tuple[dict[str, Any], int]:
    values = _without_forced(values, slots, cls)
    found: dict[str, Any] = {}
    at = 0
    controlled = False
    for slot in slots:
        if at >= len(values):
            break
        if slot.name == "control_after_generate" and slot.spec is None:
            # Workflows written by programs often lack it.
            controlled = values[at] in CONTROL_MODES
            at += controlled
        elif slot.name == "control_filter_list" and slot.spec is None:
            at += controlled
        else:
            found[slot.name] = values[at]
            at += 1
    return found, len(values) - at


def _without_retired(values: list[Any], cls: NodeClass) -> list[Any]:
    """Drop the values of widgets that the class no longer has."""
    return [
        value
        for position, value in enumerate(values)
        if value not in cls.retired_widgets.get(position, ())
    ]


def _without_forced(values: list[Any], slots: list[WidgetSlot], cls: NodeClass) -> list[Any]:
    """Drop the dummies that editors before 2025 saved for ``forceInput`` inputs. Only the number of
    values shows whether they are there."""
    forced = [
        is_forced
        for spec in cls.inputs
        for is_forced in (
            [True]
            if spec.options.get("forceInput")
            else [False] * len(list(_slots_of(spec)) if has_widget(spec) else [])
        )
    ]
    if len(values) == len(slots) or len(values) != len(forced):
        return values
    return [value for value, is_forced in zip(values, forced, strict=True) if not is_forced]


def default_value(spec: InputSpec) -> Any:
    """Return the initial value of the editor's widget; None if it is not known."""
    if "default" in spec.options:
        return spec.options["default"]
    choices = spec.choices
    if choices is not None:
        return choices[0] if choices else None
    return {"INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False}.get(spec.type)


def values_without_class(node: UiNode) -> dict[str, Any]:
    """Name as many widget values as possible without the node's class."""
    if node.named_values is not None:
        named = dict(node.named_values)
    elif isinstance(node.values, dict):
        named = dict(node.values)
    else:
        names = [entry.widget for entry in node.inputs if entry.widget is not None]
        values = list(node.values or ())
        plain = [value for value in values if value not in CONTROL_MODES]
        for candidate in (values, plain):
            if len(candidate) == len(names):
                return dict(zip(names, candidate, strict=True))
        return {}
    return {
        name: value
        for name, value in named.items()
        if name not in ("control_after_generate", "control_filter_list")
    }
