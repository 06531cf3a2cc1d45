"""Checks one input against its declaration, and coerces its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..graph import BadLink, Link, Value
from ..node_class import InputSpec, NodeClass
from .problems import InputProblem

MOST_CHOICES_SHOWN = 20


def missing_input(spec: InputSpec) -> InputProblem:
    return InputProblem("required_input_missing", "Required input is missing", spec.name, spec.name)


def bad_link(spec: InputSpec, received: BadLink) -> InputProblem:
    """Describe a list that is not a link."""
    value = received.received
    details = f"{spec.name}: {value!r}"
    if len(value) == 2 and not isinstance(value[0], str):
        details += f" (node ids are strings: [{str(value[0])!r}, {value[1]!r}])"
    details += '; a list of values is written {"__value__": [...]}'
    return InputProblem(
        "bad_linked_input",
        "Bad linked input, must be a length-2 list of [node_id, slot_index]",
        details,
        spec.name,
        spec=spec,
        received=received,
    )


def dangling_link(name: str, link: Link, reason: str) -> InputProblem:
    """Describe a link to a node or output that does not exist."""
    return InputProblem(
        "bad_linked_input",
        "Bad linked input, its source does not exist",
        f"{name}: {reason}",
        name,
        received=link,
    )


def check_link(
    spec: InputSpec, link: Link, source: NodeClass, *, check_type: bool
) -> InputProblem | None:
    """Check that the source has such an output, and that its type may feed this input."""
    if not 0 <= link.slot < len(source.return_types):
        count = len(source.return_types)
        return dangling_link(
            spec.name,
            link,
            f"node {link.node_id} ({source.name}) has no output {link.slot}, "
            + (f"its outputs are 0 to {count - 1}" if count else "it has no outputs"),
        )
    received = source.return_types[link.slot]
    if not check_type or types_agree(received, spec.type):
        return None
    return InputProblem(
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        f"{spec.name}, received_type({received}) mismatch input_type({spec.type})",
        spec.name,
        spec=spec,
        received=link,
        received_type=received,
    )


def types_agree(received: Any, wanted: Any) -> bool:
    """Whether an output may feed an input: equal, ``*``, or a common member of ``"A,B"`` sets."""
    # Compared with != because packs define an "any" type as a str whose __ne__ returns False.
    if not (received != wanted):  # noqa: SIM202
        return True
    if isinstance(received, (list, tuple)):
        return wanted in ("COMBO", "*")
    if not isinstance(received, str):
        return False
    if not isinstance(wanted, str):
        return received == "*"
    ours = {part.strip() for part in received.split(",")}
    theirs = {part.strip() for part in wanted.split(",")}
    return "*" in ours or "*" in theirs or not ours.isdisjoint(theirs)


def check_value(spec: InputSpec, received: Value, *, check_range: bool) -> Value | InputProblem:
    """Coerce a value to the type of its input; a combo's to the spelling of the choice.

    ``check_range`` is False where the class's own ``VALIDATE_INPUTS`` checks this input.
    """
    try:
        value = _coerce(spec.type, received.value)
    except (TypeError, ValueError, OverflowError) as error:
        return InputProblem(
            "invalid_input_type",
            f"Failed to convert an input value to a {spec.type} value",
            f"{spec.name}, {received.value!r}, {error}",
            spec.name,
            spec=spec,
            received=received,
            exception=error,
        )
    coerced = received if value is received.value else Value(value)
    if not check_range:
        return coerced
    problem = _check_bounds(spec, coerced)
    if problem is not None or spec.choices is None:
        return problem or coerced
    return _check_choice(spec, coerced, spec.choices)


def _coerce(wanted: Any, value: Any) -> Any:
    if wanted == "INT":
        return value if type(value) is int else int(value)
    if wanted == "FLOAT":
        return value if type(value) is float else float(value)
    if wanted == "STRING":
        return value if type(value) is str else str(value)
    if wanted == "BOOLEAN":
        return _parse_boolean(value) if isinstance(value, str) else bool(value)
    return value


def _parse_boolean(text: str) -> bool:
    """``bool("false")`` is True, and nobody who writes "false" means that."""
    lowered = text.strip().lower()
    if lowered not in ("true", "false"):
        raise ValueError("expected true or false")
    return lowered == "true"


def _check_bounds(spec: InputSpec, received: Value) -> InputProblem | None:
    value = received.value
    if not isinstance(value, (int, float)):
        return None
    low, high = spec.options.get("min"), spec.options.get("max")
    # Negated, so that nan, for which every comparison is False, is out of range.
    if low is not None and not value >= low:
        kind, message = "value_smaller_than_min", f"Value {value} smaller than min of {low}"
    elif high is not None and not value <= high:
        kind, message = "value_bigger_than_max", f"Value {value} bigger than max of {high}"
    else:
        return None
    return InputProblem(kind, message, spec.name, spec.name, spec=spec, received=received)


def _check_choice(spec: InputSpec, received: Value, choices: Sequence[Any]) -> Value | InputProblem:
    value = received.value
    several = spec.options.get("multiselect") or spec.options.get("multi_select")
    if several and isinstance(value, list):
        matches = [_match_choice(item, choices) for item in value]
        wrong = [item for item, match in zip(value, matches, strict=True) if match is None]
        result: Any = matches
    else:
        result = _match_choice(value, choices)
        wrong = [value] if result is None and value not in choices else []
    if not wrong:
        return received if result is value else Value(result)
    few = len(choices) <= MOST_CHOICES_SHOWN
    shown = str(choices) if few else f"(list of length {len(choices)})"
    return InputProblem(
        "value_not_in_list",
        "Value not in list",
        f"{spec.name}: {', '.join(map(repr, wrong))} not in {shown}",
        spec.name,
        spec=spec,
        received=received,
    )


def _match_choice(value: Any, choices: Sequence[Any]) -> Any | None:
    """Find the choice that ``value`` means. Either path separator matches, since workflows are
    exchanged between Windows and other systems."""
    if value in choices:
        return value
    if isinstance(value, str):
        wanted = value.replace("\\", "/")
        for choice in choices:
            if isinstance(choice, str) and choice.replace("\\", "/") == wanted:
                return choice
    return None
