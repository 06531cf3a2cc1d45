"""Resolves what the editor resolves in a text before it runs a prompt: comments and choices.

The editor (1.49 and 1.58) does this for text widgets that are declared with ``dynamicPrompts``;
the server never does. ``//`` to the end of the line and ``/* */`` are comments, inside braces and
after a backslash too. ``{a|b}`` is one of its options, drawn at random; options may hold choices;
``\\{``, ``\\}`` and ``\\|`` are characters of the text. An unclosed ``{`` ends with the text, an
unclosed ``/*`` is text. Each level of braces removes one backslash of an escape, and a backslash at
the very end becomes ``\\undefined``: both are the editor's doing, and a run here must encode what
a run there does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..errors import OptionError

DEEPEST_CHOICE = 1_000
"""Levels of nested braces; each level costs another pass over what is in it."""

_LINE_COMMENT = re.compile("//[^\n\r\u2028\u2029]*")
_COMMENT = re.compile(rf"{_LINE_COMMENT.pattern}|/\*")
_MARKS = re.compile(r"\\.?|[{}|]", re.DOTALL)
_ESCAPED = re.compile(r"\\([{}|])")


def resolve_choices(text: str, random: Random) -> str:
    """Return the text without comments, each choice replaced by one option that *random* draws.

    Raises:
        OptionError: if choices are nested more than 1,000 deep.
    """
    return _resolve(text, random.choice)


def longest_choice(text: str, measure: Callable[[str], Any]) -> str:
    """Return the text without comments, each choice replaced by the option for which *measure* is
    greatest; the first of several.

    Raises:
        OptionError: if choices are nested more than 1,000 deep.
    """
    return _resolve(text, lambda options: max(options, key=measure))


def strip_comments(text: str) -> str:
    """Return the text without its comments, in linear time; choices and escapes stay."""
    kept = []
    position = 0
    pattern = _COMMENT
    while (found := pattern.search(text, position)) is not None:
        end = found.end()
        if found.group() == "/*":
            close = text.find("*/", end)
            if close < 0:  # from here on, no block comment can end
                pattern = _LINE_COMMENT
                continue
            end = close + 2
        kept.append(text[position : found.start()])
        position = end
    kept.append(text[position:])
    return "".join(kept)


@dataclass(slots=True, eq=False)
class _Choice:
    options: list[list[str | _Choice]] = field(default_factory=lambda: [[]])
    resolved: str = ""


def _resolve(text: str, choose: Callable[[Sequence[str]], str]) -> str:
    parts, choices = _parse(strip_comments(text))
    for choice in reversed(choices):  # inner choices before those that hold them
        options = [_join(option) for option in choice.options]
        choice.resolved = choose(options) if len(options) > 1 else options[0]
    return _join(parts)


def _parse(text: str) -> tuple[list[str | _Choice], list[_Choice]]:
    """Return the parts of the text, and all its choices, each after the one that holds it."""
    parts: list[str | _Choice] = []
    choices: list[_Choice] = []
    enclosing: list[tuple[_Choice, list[str | _Choice]]] = []  # with the parts that follow it
    position = 0
    for mark in _MARKS.finditer(text):
        parts.append(text[position : mark.start()])
        position = mark.end()
        letter = mark.group()
        if letter == "{":
            if len(enclosing) == DEEPEST_CHOICE:
                raise OptionError(
                    f"the text nests choices {{a|b}} more than {DEEPEST_CHOICE:,} deep"
                )
            choice = _Choice()
            parts.append(choice)
            choices.append(choice)
            enclosing.append((choice, parts))
            parts = choice.options[0]
        elif letter == "}" and enclosing:
            parts = enclosing.pop()[1]
        elif letter == "|" and enclosing:
            parts = []
            enclosing[-1][0].options.append(parts)
        else:
            parts.append("\\undefined" if letter == "\\" else letter)
    parts.append(text[position:])
    return (enclosing[0][1] if enclosing else parts), choices


def _join(parts: list[str | _Choice]) -> str:
    joined = "".join(part if isinstance(part, str) else part.resolved for part in parts)
    return _ESCAPED.sub(r"\1", joined) if "\\" in joined else joined
