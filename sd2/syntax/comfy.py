"""Parses ComfyUI's prompt syntax into weighted segments.

``(x)`` weighs 1.1 times what surrounds it; ``(x:1.5)`` weighs 1.5 whatever surrounds it; ``\\(``
and ``\\)`` are brackets of the text. A weight is anything that Python's ``float`` accepts. Some
oddities are kept, because existing texts rely on them:

- a surplus ``)`` makes the next ``(`` plain text, and the group that this would have opened;
- an unclosed ``(`` is plain text, with everything after it, unless the text ends with a ``)``: then
  these two are a pair, and the bracket inside that lost its partner is the unclosed one.

Where ComfyUI crashes (deep nesting) or spoils the picture (nan, inf and weights beyond float32),
the text stays, weighs as if no number were there, and a warning says so. Nothing here recurses,
and the cost grows linearly with the text.
"""

import re
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from .segments import GROUP_FACTOR, LARGEST_WEIGHT, SENSIBLE_WEIGHT, ParsedText, Segment

_MARKS = re.compile(r"\\[()]|[():]")
_ESCAPED = re.compile(r"\\([()])")


def parse_unweighted(text: str) -> ParsedText:
    """Parse *text* as one segment of weight 1; all brackets are text, escaped ones too."""
    return ParsedText(((Segment(_unescape(text), 1.0),) if text else (),))


def parse_comfy(text: str) -> ParsedText:
    """Parse *text* as ComfyUI does."""
    marks = _scan(text)
    warnings = _Warnings(text)
    if marks.stray is not None:
        warnings.stray(marks.stray)
    if marks.unclosed:
        warnings.unclosed(marks.unclosed[0])

    segments: list[Segment] = []
    # Enclosing groups: end of the group's text, where parsing resumes after it, weight.
    enclosing: list[tuple[int, int, float]] = [(len(text), len(text), 1.0)]
    position = 0
    opening = 0  # index of the next '(' to look at

    def emit(end: int) -> None:
        if end > position:
            segments.append(Segment(_unescape(text[position:end]), weight))

    while enclosing:
        end, resume, weight = enclosing[-1]
        while opening < len(marks.openings) and marks.openings[opening] < position:
            opening += 1  # inside a stretch that is plain text
        if opening == len(marks.openings) or marks.openings[opening] >= end:
            emit(end)
            enclosing.pop()
            position = resume
            continue
        bracket = marks.openings[opening]
        emit(bracket)
        position = bracket
        if marks.unclosed and bracket == marks.unclosed[0]:
            marks.unclosed.popleft()
            close, after = end - 1, end
            partner = marks.partner_of_closing.get(close)
            if partner is None:
                emit(end)
                position = end
                continue
            marks.unclosed.append(partner)
        else:
            close = marks.partner_of_opening[bracket]
            after = close + 1
        inner_end, inner_weight = _weigh(text, marks, bracket, close, weight, warnings)
        enclosing.append((inner_end, after, inner_weight))
        position = bracket + 1
    return ParsedText((tuple(segments),), warnings.messages())


@dataclass
class _Marks:
    """The positions of brackets and colons in a text, and which brackets are pairs."""

    openings: list[int] = field(default_factory=list)
    partner_of_opening: dict[int, int] = field(default_factory=dict)
    partner_of_closing: dict[int, int] = field(default_factory=dict)
    unclosed: deque[int] = field(default_factory=deque)
    stray: int | None = None
    colons: list[int] = field(default_factory=list)
    brackets: list[int] = field(default_factory=list)
    """All of them, escaped and plain ones too."""


def _scan(text: str) -> _Marks:
    marks = _Marks()
    pending: list[int] = []
    surplus = 0  # unmatched ')' so far; each makes one later '(' plain
    for match in _MARKS.finditer(text):
        index, mark = match.start(), match.group()
        if mark == ":":
            marks.colons.append(index)
            continue
        marks.brackets.append(index)
        if mark == "(":
            if surplus:
                surplus -= 1
            else:
                marks.openings.append(index)
                pending.append(index)
        elif mark == ")":
            if pending:
                partner = pending.pop()
                marks.partner_of_opening[partner] = index
                marks.partner_of_closing[index] = partner
            else:
                surplus += 1
                if marks.stray is None:
                    marks.stray = index
    marks.unclosed.extend(pending)
    return marks


def _weigh(
    text: str, marks: _Marks, opening: int, closing: int, outer: float, warnings: "_Warnings"
) -> tuple[int, float]:
    """Return where the text of a group ends, and its weight."""
    end = closing
    colon = _last_before(closing, marks.colons)
    # A colon right after the bracket is text. A number has no brackets in it, so only the innermost
    # of nested groups parses the same characters: this keeps the cost linear.
    if colon > opening + 1 and _last_before(closing, marks.brackets) < colon:
        try:
            weight = float(text[colon + 1 : closing])
        except ValueError:
            pass
        else:
            if abs(weight) <= LARGEST_WEIGHT:  # false for nan
                warnings.explicit(opening, colon, closing, weight)
                return colon, weight
            warnings.unusable(opening, colon, closing)
            end = colon
    weight = outer * GROUP_FACTOR
    if abs(weight) > LARGEST_WEIGHT:
        warnings.too_deep(opening)
        weight = outer
    elif abs(weight) > SENSIBLE_WEIGHT >= abs(outer):
        warnings.nested(opening, weight)
    return end, weight


def _last_before(position: int, positions: list[int]) -> int:
    index = bisect_left(positions, position)
    return positions[index - 1] if index else -1


def _unescape(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


class _Warnings:
    """Collects one message of each kind: about the first case, with the number of others."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._first: dict[str, str] = {}
        self._count: dict[str, int] = {}

    def stray(self, index: int) -> None:
        self._add(
            "stray",
            f"the ')' at character {index + 1} closes nothing, so a later '(' has no effect "
            "either; write '\\)' if it is meant as text",
        )

    def unclosed(self, index: int) -> None:
        self._add(
            "unclosed",
            f"the '(' at character {index + 1} is never closed; write '\\(' if it is meant as text",
        )

    def explicit(self, opening: int, colon: int, closing: int, weight: float) -> None:
        if self._names_embedding(opening + 1, colon):
            self._add(
                "embedding",
                f"{self._quote(opening, closing)}: the number is read as a weight, not as the "
                "name of an embedding; add a weight, as in (embedding:123:1.0)",
            )
        elif abs(weight) > SENSIBLE_WEIGHT:
            self._add(
                "explicit",
                f"{self._quote(opening, closing)} has weight {weight:g}, far from 1; if the "
                "number is text, add a weight, as in (time 12:30:1.0)",
            )

    def unusable(self, opening: int, colon: int, closing: int) -> None:
        self._add(
            "unusable",
            f"{self._quote(opening, closing)}: "
            f"'{_shorten(self._text, colon + 1, closing)}' is not a usable weight; it is ignored",
        )

    def nested(self, opening: int, weight: float) -> None:
        self._add(
            "nested", f"the brackets around character {opening + 1} multiply to weight {weight:.3g}"
        )

    def too_deep(self, opening: int) -> None:
        self._add(
            "too deep",
            f"the brackets at character {opening + 1} are nested too deeply to raise the weight "
            "further",
        )

    def messages(self) -> tuple[str, ...]:
        return tuple(
            message + (f" (and {self._count[kind] - 1} more)" if self._count[kind] > 1 else "")
            for kind, message in self._first.items()
        )

    def _add(self, kind: str, message: str) -> None:
        self._first.setdefault(kind, message)
        self._count[kind] = self._count.get(kind, 0) + 1

    def _names_embedding(self, start: int, colon: int) -> bool:
        word = "embedding"
        before = colon - len(word) - 1
        return self._text.endswith(word, start, colon) and (
            before < start or self._text[before].isspace()
        )

    def _quote(self, opening: int, closing: int) -> str:
        return f"'{_shorten(self._text, opening, closing + 1)}'"


def _shorten(text: str, start: int, end: int, width: int = 40) -> str:
    """Return ``text[start:end]``, cut in the middle, because the weight is at its end."""
    if end - start <= width:
        return text[start:end]
    half = width // 2
    return f"{text[start : start + half]}…{text[end - half : end]}"
