"""What every prompt syntax parses a text into: weighted segments."""

from dataclasses import dataclass
from typing import NamedTuple

GROUP_FACTOR = 1.1
"""What a pair of round brackets multiplies the weight by, in every syntax."""

LARGEST_WEIGHT = 3.4028234663852886e38
"""Conditioning is float32: a larger weight turns it into inf, then the picture into NaN."""

SENSIBLE_WEIGHT = 3.0
"""Not a limit: a larger weight is probably a mistake, as "(time 12:30)", which weighs 30."""


class Segment(NamedTuple):
    """A stretch of text, with escapes resolved, and its weight."""

    text: str
    weight: float


Section = tuple[Segment, ...]
"""Segments in order, none empty."""


@dataclass(frozen=True)
class ParsedText:
    """The sections of a text and the warnings about it."""

    sections: tuple[Section, ...]
    """One, or several where A1111's BREAK separates them; each begins a chunk."""
    warnings: tuple[str, ...] = ()
