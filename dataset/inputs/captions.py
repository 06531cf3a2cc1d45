"""Captions, and the options that say how they are read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ...sd2.errors import OptionError, SD2ClipError

CAPTION_CHOICES = ("first", "all", "random")
LINE_CHOICES = ("all", "first")


class CaptionsError(SD2ClipError):
    """Captions cannot be read from an input."""


@dataclass(frozen=True)
class Caption:
    """A caption and the key of its picture."""

    key: str
    text: str


@dataclass(frozen=True)
class ReadOptions:
    """How captions are read; results depend on all of it."""

    column: str | None = None
    """Column of the captions, ``a.b`` for a field of a column; None: found by its name."""
    key_column: str | None = None
    """Column that identifies each row; None: file and row number."""
    captions: str = "first"
    """Which one of a list of captions: first, all, or random."""
    seed: int = 0
    """Of ``captions="random"``."""
    header: bool = True
    """Whether CSV and TSV files begin with column names; without, columns are 1, 2, …"""
    caption_extension: str | None = None
    """Ending of text files beside pictures; None: .txt or .caption, whichever is there."""
    caption_lines: str = "all"
    """Which lines of a text file beside a picture: all or first."""

    def __post_init__(self) -> None:
        if self.captions not in CAPTION_CHOICES:
            raise OptionError(
                f"captions {self.captions!r} is unknown. Choose {', '.join(CAPTION_CHOICES)}."
            )
        if self.caption_lines not in LINE_CHOICES:
            raise OptionError(
                f"caption_lines {self.caption_lines!r} is unknown. "
                f"Choose {', '.join(LINE_CHOICES)}."
            )

    def as_json(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
