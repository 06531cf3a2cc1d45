"""Parses A1111's brackets: text without prompt editing into weighted segments.

``(x)`` multiplies by 1.1, ``(x:1.5)`` by 1.5, ``[x]`` by 1/1.1, whatever surrounds them. Round and
square brackets are matched independently: in ``(a [b) c]`` the ranges overlap. A bracket that is
never closed counts to the end; one that closes nothing is text. A backslash makes a bracket or
backslash text; before any other character it is dropped. ``BREAK`` ends a section.

Two differences from A1111: ``BREAK`` also works inside brackets (A1111 ignores it there), and
``(x:1.2.3)``, which A1111 fails on, closes like any ``)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .segments import (
    GROUP_FACTOR,
    LARGEST_WEIGHT,
    SENSIBLE_WEIGHT,
    ParsedText,
    Section,
    Segment,
)

_MARKS = re.compile(r"\\[()\[\]\\]|[\\()\[\]]|:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*\)|[^\\()\[\]:]+|:")
_BREAK = re.compile(r"\bBREAK\b")

EXACT_DEPTH = 16
"""Depth of nesting up to which factors multiply in A1111's order, equal to the last bit."""


@dataclass
class _Range:
    """The range of text that one bracket multiplies."""

    outer: _Range | None
    factor: float = 1.0
    closed: int = 0
    """Rank among all ranges in order of closing, which is the order of multiplication."""
    product: float = 1.0
    """Product of this factor and all outer ones."""


@dataclass(frozen=True)
class _Piece:
    text: str
    ranges: tuple[_Range | None, _Range | None] = (None, None)
    is_break: bool = False


class _Kind:
    """The brackets of one kind: round or square."""

    def __init__(self, bracket: str, factor: float) -> None:
        self.bracket = bracket
        self.factor = factor
        self.innermost: _Range | None = None
        self.all: list[_Range] = []  # outer ones first

    def open(self) -> None:
        self.innermost = _Range(self.innermost)
        self.all.append(self.innermost)

    def close(self, factor: float, number: int) -> None:
        assert self.innermost is not None
        self.innermost.factor, self.innermost.closed = _limited(factor), number
        self.innermost = self.innermost.outer

    def unclosed(self) -> list[_Range]:
        """List the open ranges, outermost first: A1111 closes them in this order at the end."""
        found = []
        one = self.innermost
        while one is not None:
            found.append(one)
            one = one.outer
        return found[::-1]


def parse_attention(text: str) -> ParsedText:
    """Parse *text* as A1111 does after prompt editing."""
    round_, square = _Kind("(", GROUP_FACTOR), _Kind("[", 1 / GROUP_FACTOR)
    opening, closing = {"(": round_, "[": square}, {")": round_, "]": square}
    pieces: list[_Piece] = []
    warnings: list[str] = []
    count = 0

    for match in _MARKS.finditer(text):
        mark, weight = match.group(), match.group(1)
        kind = closing.get(mark[-1]) if len(mark) == 1 or weight is not None else None
        if mark in opening:
            opening[mark].open()
        elif kind is not None and kind.innermost is not None:
            count += 1
            kind.close(kind.factor if weight is None else float(weight), count)
        elif mark[0] == "\\":
            pieces.append(_Piece(mark[1:], (round_.innermost, square.innermost)))
        else:
            if kind is not None:
                warnings.append(f"a '{mark[-1]}' that closes nothing is text")
            pieces.extend(_split_at_breaks(mark, (round_.innermost, square.innermost)))

    for kind in (round_, square):
        pending = kind.unclosed()
        for one in pending:
            count += 1
            one.factor, one.closed = kind.factor, count
        if pending:
            warnings.append(
                f"{len(pending)} '{kind.bracket}' never closed: in A1111's syntax it counts to "
                "the end of the text"
            )
        for one in kind.all:
            one.product = _limited(one.factor * (one.outer.product if one.outer else 1.0))

    sections = tuple(_sections(pieces))
    far = [segment for section in sections for segment in section if _is_far(segment)]
    if far:
        warnings.append(
            f"weight {far[0].weight:.3g} of '{far[0].text.strip()[:40]}' is far from 1"
            + (f" (and {len(far) - 1} more)" if len(far) > 1 else "")
        )
    return ParsedText(sections, tuple(warnings))


def _split_at_breaks(text: str, ranges: tuple[_Range | None, _Range | None]) -> Iterator[_Piece]:
    parts = _BREAK.split(text)
    for index, part in enumerate(parts):
        if index:
            yield _Piece("", is_break=True)
            part = part.lstrip()
        yield _Piece(part if index == len(parts) - 1 else part.rstrip(), ranges)


def _sections(pieces: list[_Piece]) -> Iterator[Section]:
    """Join neighbours of equal weight, as A1111 does before tokenizing."""
    section: list[Segment] = []
    texts: list[str] = []
    weight = 1.0

    def flush() -> None:
        text = "".join(texts)
        if text:
            section.append(Segment(text, weight))
        texts.clear()

    for piece in pieces:
        if piece.is_break:
            flush()
            yield tuple(section)
            section.clear()
            continue
        own = _weight(*piece.ranges)
        if own != weight:
            flush()
            weight = own
        texts.append(piece.text)
    flush()
    yield tuple(section)


def _weight(*innermost: _Range | None) -> float:
    factors: list[tuple[int, float]] = []
    beyond = 1.0
    for one in innermost:
        depth = 0
        while one is not None and depth < EXACT_DEPTH:
            factors.append((one.closed, one.factor))
            one, depth = one.outer, depth + 1
        if one is not None:
            beyond *= one.product
    weight = 1.0
    for _, factor in sorted(factors):
        weight = _limited(weight * factor)
    return _limited(weight * beyond)


def _limited(weight: float) -> float:
    return max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, weight))


def _is_far(segment: Segment) -> bool:
    return abs(segment.weight) > SENSIBLE_WEIGHT
