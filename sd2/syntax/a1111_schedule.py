"""Parses A1111's prompt editing: which text holds at which time of sampling.

``[from:to:when]``, ``[to:when]`` and ``[from::when]`` change the text once, ``[a|b|c]`` with every
step. *when* with a decimal point is a share of the steps, without one a number of steps. All of
these may be nested. Other brackets are text: unbalanced ones, ``[a:b]``, ``(a:1.2)``. As in A1111,
a ``|`` outside of alternatives, or a single backslash at the end, turns prompt editing off for the
whole text.

The text is parsed once, with an explicit stack, and then written once for each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ASSUMED_STEPS = 20
"""A1111's default, for a text that counts steps where their number is not known."""

LARGEST_SCHEDULE = 20_000_000
"""Limit on the characters of all texts of a schedule together, against accidents."""

_PIECES = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|]|\\")
_WHEN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_CLOSER = {"[": "]", "(": ")"}


@dataclass(frozen=True)
class Span:
    """*text* holds from *start* to *end*, as shares of the sampling: 0 to 1."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Schedule:
    """The texts of one prompt in order of time, without gaps."""

    spans: tuple[Span, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Edit:
    before: list[_Item]
    after: list[_Item]
    when: str


@dataclass(frozen=True)
class _Alternatives:
    options: list[list[_Item]]


@dataclass(frozen=True)
class _Group:
    """Brackets that are text; an item of its own, so that nothing is moved twice."""

    items: list[_Item]


_Item = str | _Edit | _Alternatives | _Group


@dataclass
class _Open:
    """A bracket not closed yet, with its fields, which colons or bars separate."""

    bracket: str
    fields: list[list[_Item]] = field(default_factory=lambda: [[]])
    separators: list[str] = field(default_factory=list)

    def as_text(self) -> Iterator[_Item]:
        yield self.bracket
        for index, items in enumerate(self.fields):
            if index:
                yield self.separators[index - 1]
            yield from items


def parse_schedule(text: str, steps: int | None = None) -> Schedule:
    """Parse *text* into the texts of *steps* of sampling; None: their number is not known."""
    items = _parse(text)
    if items is None:
        return _unscheduled(text, *_ignored_warnings(text))
    edits = [item for item in _walk(items) if not isinstance(item, str)]
    alternates = any(isinstance(item, _Alternatives) for item in edits)
    whens = [item.when for item in edits if isinstance(item, _Edit)]
    if not alternates and not whens:
        return _unscheduled(text)
    counted = alternates or any("." not in when for when in whens)
    assumed = counted and steps is None
    count = ASSUMED_STEPS if assumed else steps
    times = {when: _time(when, count) for when in set(whens)}
    inner = {time for time in times.values() if 0.0 < time < 1.0}
    every_step = range(1, count) if alternates and count is not None else range(0)
    changes = len(inner) + len(
        every_step
    )  # an upper bound, checked before a set of that size is made
    if (changes + 1) * len(text) > LARGEST_SCHEDULE:
        return _unscheduled(
            text,
            f"{changes} changes by prompt editing are too many for a text of {len(text)} "
            "characters; prompt editing is ignored",
        )
    if count is not None:
        inner.update(step / count for step in every_step)
    spans: list[Span] = []
    start = 0.0
    for end in [*sorted(inner), 1.0]:
        step = round(end * count) if count else 0
        written = _write(items, end, step, times)
        if spans and spans[-1].text == written:
            spans[-1] = Span(spans[-1].start, end, written)
        else:
            spans.append(Span(start, end, written))
        start = end
    return Schedule(tuple(spans), (_ASSUMED,) if assumed else ())


_ASSUMED = (
    f"[a|b] and whole numbers such as [a:b:5] count sampling steps; {ASSUMED_STEPS} are assumed, "
    "A1111's default. Set steps to those of the sampler, or write a share: [a:b:0.25]"
)


def _unscheduled(text: str, *warnings: str) -> Schedule:
    return Schedule((Span(0.0, 1.0, text),), warnings)


def _ignored_warnings(text: str) -> list[str]:
    if "[" not in text:
        return []  # there is no prompt editing to ignore
    return [
        "prompt editing is ignored, as in A1111: the text has a '|' outside of [a|b], or a single "
        "backslash at its end"
    ]


def _time(when: str, steps: int | None) -> float:
    """Return the share of sampling after which an edit takes effect."""
    number = float(when)
    if "." in when:
        share = min(max(number, 0.0), 1.0)
        return share if steps is None else int(share * steps) / steps
    assert steps is not None
    return min(max(number, 0.0), float(steps)) / steps


def _parse(text: str) -> list[_Item] | None:
    """Return the text as a tree, or None if A1111's grammar does not accept it."""
    root: list[_Item] = []
    opened: list[_Open] = []

    def add(item: _Item) -> None:
        (opened[-1].fields[-1] if opened else root).append(item)

    def give_up_opened() -> bool:
        """Turn all open brackets into text; return False if A1111's grammar does not accept it."""
        for one in opened:
            if "|" in one.separators:
                return False
            root.extend(one.as_text())
        opened.clear()
        return True

    for match in _PIECES.finditer(text):
        piece = match.group()
        if piece == "\\":
            return None
        if piece in ("[", "("):
            opened.append(_Open(piece))
        elif piece in ("|", ":"):
            if opened:
                opened[-1].separators.append(piece)
                opened[-1].fields.append([])
            elif piece == "|":
                return None
            else:
                root.append(piece)
        elif piece in ("]", ")"):
            closed = None
            if opened and _CLOSER[opened[-1].bracket] == piece:
                closed = _close(opened[-1])
            if closed is None:
                if not give_up_opened():
                    return None
                root.append(piece)
            else:
                opened.pop()
                add(closed)
        else:
            add(piece)
    return root if give_up_opened() else None


def _close(opened: _Open) -> _Item | None:
    """Return what a bracket means when it closes; None: it is text."""
    fields, separators = opened.fields, opened.separators
    if not separators or (opened.bracket == "(" and separators == [":"]):
        return _Group([*opened.as_text(), _CLOSER[opened.bracket]])
    if opened.bracket == "(":
        return None
    if set(separators) == {"|"}:
        return _Alternatives(fields)
    last = [item for item in fields[-1] if isinstance(item, str)]
    when = _WHEN.fullmatch("".join(last)) if len(last) == len(fields[-1]) else None
    if when is None or "|" in separators or len(separators) > 2:
        return None
    return _Edit(fields[0] if len(separators) == 2 else [], fields[-2], when[1])


def _walk(items: list[_Item]) -> Iterator[_Item]:
    stack: list[_Item] = list(items)
    while stack:
        item = stack.pop()
        yield item
        if isinstance(item, _Group):
            stack.extend(item.items)
        elif isinstance(item, _Edit):
            stack.extend(item.before)
            stack.extend(item.after)
        elif isinstance(item, _Alternatives):
            for option in item.options:
                stack.extend(option)


def _write(items: list[_Item], time: float, step: int, times: dict[str, float]) -> str:
    """Write the text that holds up to *time*, the end of step number *step*."""
    written: list[str] = []
    stack: list[Iterator[_Item]] = [iter(items)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
        elif isinstance(item, str):
            written.append(item)
        elif isinstance(item, _Group):
            stack.append(iter(item.items))
        elif isinstance(item, _Edit):
            stack.append(iter(item.before if time <= times[item.when] else item.after))
        else:
            stack.append(iter(item.options[(step - 1) % len(item.options)]))
    return "".join(written)
