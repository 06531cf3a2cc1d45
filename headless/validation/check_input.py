"""One input against its declaration: the errors in ComfyUI's shape, and the value to use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..graph import BadLink, Link, Value
from ..node_class import InputSpec, NodeClass

ErrorObject = dict[str, Any]
"""``{"type", "message", "details", "extra_info"}``, as ComfyUI's API reports one problem."""

MOST_CHOICES_SHOWN = 20


class InputRejectedError(Exception):
    """Carries the error object of one input."""

    def __init__(self, error: ErrorObject) -> None:
        super().__init__(error["details"])
        self.error = error


def problem(kind: str, message: str, details: str, **extra_info: Any) -> ErrorObject:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def missing_input(spec: InputSpec) -> ErrorObject:
    return problem(
        "required_input_missing", "Required input is missing", spec.name, input_name=spec.name
    )


def bad_link(spec: InputSpec, received: BadLink) -> ErrorObject:
    """What to say of a list that is no link."""
    value = received.received
    details = f"{spec.name}: {value!r}"
    if len(value) == 2 and not isinstance(value[0], str):
        details += f" (node ids are strings: [{str(value[0])!r}, {value[1]!r}])"
    details += '; a list of values is written {"__value__": [...]}'
    return problem(
        "bad_linked_input",
        "Bad linked input, must be a length-2 list of [node_id, slot_index]",
        details,
        input_name=spec.name,
        input_config=_config(spec),
        received_value=value,
    )


def dangling_link(name: str, link: Link, reason: str) -> ErrorObject:
    """A link to a node or a slot that is not there (ComfyUI: a bare KeyError or IndexError)."""
    return problem(
        "bad_linked_input",
        "Bad linked input, its source does not exist",
        f"{name}: {reason}",
        input_name=name,
        received_value=[link.node_id, link.slot],
    )


def check_source_type(spec: InputSpec, link: Link, source: NodeClass, *, check_type: bool) -> Any:
    """The type that a link brings. Raises InputRejectedError if it is none, or of no use here."""
    if not 0 <= link.slot < len(source.return_types):
        count = len(source.return_types)
        raise InputRejectedError(
            dangling_link(
                spec.name,
                link,
                f"node {link.node_id} ({source.name}) has no output {link.slot}, "
                + (f"its outputs are 0 to {count - 1}" if count else "it has no outputs"),
            )
        )
    received = source.return_types[link.slot]
    if check_type and not types_agree(received, spec.type):
        raise InputRejectedError(
            problem(
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                f"{spec.name}, received_type({received}) mismatch input_type({spec.type})",
                input_name=spec.name,
                input_config=_config(spec),
                received_type=received,
                linked_node=[link.node_id, link.slot],
            )
        )
    return received


def types_agree(received: Any, wanted: Any) -> bool:
    """Whether an output may feed an input: equal, ``*``, or a common member of ``"A,B"`` sets."""
    # Asked with != because packs make an "any" type of a str whose __ne__ is always False.
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


def check_value(spec: InputSpec, received: Value, *, check_range: bool) -> Value:
    """The value to run with: coerced to its type, a combo's in the spelling of the choice.

    ``check_range`` is False where the class's own ``VALIDATE_INPUTS`` answers for this input.

    Raises:
        InputRejectedError
    """
    try:
        value = _coerce(spec.type, received.value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputRejectedError(
            problem(
                "invalid_input_type",
                f"Failed to convert an input value to a {spec.type} value",
                f"{spec.name}, {received.value!r}, {error}",
                input_name=spec.name,
                input_config=_config(spec),
                received_value=received.value,
                exception_message=str(error),
            )
        ) from error
    if check_range:
        _check_bounds(spec, value)
        choices = spec.choices
        if choices is not None:
            value = _check_choice(spec, value, choices)
    return received if value is received.value else Value(value)


def _coerce(wanted: Any, value: Any) -> Any:
    if wanted == "INT":
        return value if type(value) is int else int(value)
    if wanted == "FLOAT":
        return value if type(value) is float else float(value)
    if wanted == "STRING":
        return value if type(value) is str else str(value)
    if wanted == "BOOLEAN":
        if isinstance(value, str):
            # bool("false") is True; nobody who writes that means it.
            return {"true": True, "false": False}[_known_truth(value)]
        return bool(value)
    return value


def _known_truth(text: str) -> str:
    lowered = text.strip().lower()
    if lowered not in ("true", "false"):
        raise ValueError("expected true or false")
    return lowered


def _check_bounds(spec: InputSpec, value: Any) -> None:
    if not isinstance(value, (int, float)):
        return
    low, high = spec.options.get("min"), spec.options.get("max")
    # Written as "not in range" so that nan, which compares with nothing, is out of it.
    if low is not None and not value >= low:
        kind, message = "value_smaller_than_min", f"Value {value} smaller than min of {low}"
    elif high is not None and not value <= high:
        kind, message = "value_bigger_than_max", f"Value {value} bigger than max of {high}"
    else:
        return
    raise InputRejectedError(
        problem(
            kind,
            message,
            f"{spec.name}",
            input_name=spec.name,
            input_config=_config(spec),
            received_value=value,
        )
    )


def _check_choice(spec: InputSpec, value: Any, choices: Sequence[Any]) -> Any:
    several = spec.options.get("multiselect") or spec.options.get("multi_select")
    if several and isinstance(value, list):
        matches = [_match_choice(item, choices) for item in value]
        wrong = [item for item, match in zip(value, matches, strict=True) if match is None]
        result: Any = matches
    else:
        result = _match_choice(value, choices)
        wrong = [value] if result is None and value not in choices else []
    if not wrong:
        return result
    few = len(choices) <= MOST_CHOICES_SHOWN
    shown = str(choices) if few else f"(list of length {len(choices)})"
    raise InputRejectedError(
        problem(
            "value_not_in_list",
            "Value not in list",
            f"{spec.name}: {', '.join(map(repr, wrong))} not in {shown}",
            input_name=spec.name,
            input_config=_config(spec) if few else None,
            received_value=value,
        )
    )


def _match_choice(value: Any, choices: Sequence[Any]) -> Any | None:
    """The choice that ``value`` names. File names agree over either path separator, because
    workflows travel between Windows and the rest."""
    if value in choices:
        return value
    if isinstance(value, str):
        wanted = value.replace("\\", "/")
        for choice in choices:
            if isinstance(choice, str) and choice.replace("\\", "/") == wanted:
                return choice
    return None


def _config(spec: InputSpec) -> list[Any]:
    return [spec.type, dict(spec.options)]
