"""The options of Encode SD2 Text: what each may be, what it is by default, and what it does.

The node's widgets, ``encode_text``, the panel's routes and the provenance of a conditioning take
all of them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, get_type_hints

from ..sd2.config import SD2_CONFIG
from ..sd2.errors import OptionError, check_choice
from ..sd2.model.token_weights import TOKEN_NORMALIZATIONS, WEIGHT_INTERPRETATIONS
from ..sd2.tokens.chunks import CHUNK_SPLITS, PADDINGS
from ..sd2.tokens.tokenize_text import MOST_STEPS, SYNTAXES


@dataclass(frozen=True)
class Choice:
    """An option whose value is one of *choices*."""

    choices: tuple[str, ...]
    help: str

    def check(self, name: str, value: object) -> None:
        """Raise OptionError unless *value* is one of the choices."""
        check_choice(name, value, self.choices)


@dataclass(frozen=True)
class Range:
    """An option whose value is a whole number from *low* to *high*."""

    low: int
    high: int
    help: str

    def check(self, name: str, value: object) -> None:
        """Raise OptionError unless *value* is a whole number of the range."""
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise OptionError(
                f"{name} {value!r} is not a whole number. Choose {self.low} to {self.high}."
            )
        if not self.low <= int(value) <= self.high:
            raise OptionError(f"{name} {value} is not between {self.low} and {self.high}.")


@dataclass(frozen=True)
class EncodeOptions:
    """How a text becomes conditioning. A value that an option cannot have is an ``OptionError``.

    The order is that of the node's widgets: new options go to the end.
    """

    syntax: Annotated[
        str,
        Choice(
            SYNTAXES,
            "How brackets are read. comfy: as ComfyUI. a1111: as AUTOMATIC1111 and "
            "Forge, with [x], [from:to:when], [a|b], BREAK and AND; nested weights multiply.",
        ),
    ] = "comfy"
    weight_interpretation: Annotated[
        str,
        Choice(
            WEIGHT_INTERPRETATIONS,
            "What a weight does. comfy: away from the empty prompt. A1111: "
            "multiplies, then restores the mean. compel: weights below 1 fade words "
            "out. comfy++: moves a word away from its absence. down_weight: only "
            "weakens, relative to the largest weight.",
        ),
    ] = "comfy"
    token_normalization: Annotated[
        str,
        Choice(
            TOKEN_NORMALIZATIONS,
            "none: weights as typed. mean: shifted so that they average 1. "
            "length: shared among the tokens of a weighted stretch. length+mean: both.",
        ),
    ] = "none"
    stop_at_clip_layer: Annotated[
        int,
        Range(
            -SD2_CONFIG.num_hidden_layers,
            0,
            "Clip skip, counted on 24 layers as by CLIP Set Last Layer: "
            "0 = as loaded, -2 = SD2's default, -1 = the very last layer.",
        ),
    ] = 0
    steps: Annotated[
        int,
        Range(
            0,
            MOST_STEPS,
            "The sampler's steps, for A1111's [a:b:5] and [a|b]; 0 = not known: 20 are assumed.",
        ),
    ] = 0
    chunk_split: Annotated[
        str,
        Choice(
            CHUNK_SPLITS,
            "Where a prompt of more than 75 tokens is cut. tokens: where 75 "
            "are full, even inside a word, as ComfyUI does. words: between words.",
        ),
    ] = "tokens"
    padding: Annotated[
        str,
        Choice(
            PADDINGS,
            "chunk: the rows of padding stay, 77 in all for each chunk, as samplers expect. none: "
            "the rows of start, tokens and end alone, as Marigold and other programs want them; "
            "for texts of one chunk.",
        ),
    ] = "chunk"

    def __post_init__(self) -> None:
        for name, option in ENCODE_OPTIONS.items():
            option.check(name, getattr(self, name))


ENCODE_OPTIONS: Mapping[str, Choice | Range] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(EncodeOptions, include_extras=True).items()
}
"""The options by name, in order; ``getattr(EncodeOptions, name)`` is an option's default."""
