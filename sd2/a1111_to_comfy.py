"""Translates a prompt in A1111's dialect into ComfyUI's, with the same weights.

Weights come out as the numbers they multiply to: ``((a:1.2) b)`` is ``(a:1.32)(b:1.1)``. What
ComfyUI's dialect has no words for is listed instead of guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .a1111 import parse_a1111
from .syntax import Segment
from .token_groups import EMBEDDING_PREFIX

_BRACKET = re.compile(r"[()]")


@dataclass(frozen=True)
class TranslatedPart:
    """One text in ComfyUI's dialect, for a share of the sampling (0 to 1), with a strength."""

    text: str
    start: float = 0.0
    end: float = 1.0
    strength: float = 1.0


@dataclass(frozen=True)
class Translation:
    """The texts, several where the prompt changes over time or has AND, and what is not in them.

    Give each its own CLIPTextEncode, ConditioningSetTimestepRange (start, end) and
    ConditioningSetAreaStrength (strength), and combine them.
    """

    parts: tuple[TranslatedPart, ...]
    untranslated: tuple[str, ...] = ()


def to_comfy(
    text: str, steps: int | None = None, embedding_names: Iterable[str] = ()
) -> Translation:
    """*text* in ComfyUI's dialect; *embedding_names* are those that A1111 would find in it."""
    prompt = parse_a1111(text, steps)
    names = _names_pattern(embedding_names)
    parts = tuple(
        TranslatedPart(
            " ".join(_written(section, names) for section in part.sections),
            part.start,
            part.end,
            part.strength,
        )
        for part in prompt.parts
    )
    left = list(prompt.networks)
    if any(len(part.sections) > 1 for part in prompt.parts):
        left.append("BREAK: encode what it separates one by one and join with ConditioningConcat")
    notes = [warning for warning in prompt.warnings if warning.startswith(("AND", "[a|b]"))]
    return Translation(parts, (*left, *notes, *filter(None, [prompt.obstacle])))


def _written(section: Iterable[Segment], names: re.Pattern[str] | None) -> str:
    return "".join(_segment(segment, names) for segment in section)


def _segment(segment: Segment, names: re.Pattern[str] | None) -> str:
    text = _BRACKET.sub(r"\\\g<0>", segment.text)
    if names is not None:
        text = names.sub(_prefixed, text)
    # A backslash before the bracket of what follows would make that bracket text.
    if segment.weight == 1.0 and not text.endswith("\\"):
        return text
    return f"({text}:{segment.weight:.9g})"


def _names_pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    longest_first = sorted(filter(None, names), key=len, reverse=True)
    if not longest_first:
        return None
    spelled = "|".join(_BRACKET.sub(r"\\\g<0>", name) for name in map(re.escape, longest_first))
    prefix = re.escape(EMBEDDING_PREFIX)
    return re.compile(rf"(?<!\w)(?:{prefix})?({spelled})(?!\w)", re.IGNORECASE)


def _prefixed(match: re.Match[str]) -> str:
    # ComfyUI takes an embedding's name from a blank to the next.
    return f" {EMBEDDING_PREFIX}{match[1]} "
