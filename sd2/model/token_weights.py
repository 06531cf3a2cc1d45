"""What a token's weight does to the conditioning: five interpretations, four normalisations.

The names are those of ComfyUI_ADV_CLIP_emb, which users know; the definitions hold per text,
whatever else is encoded with it. With z the state of a token, w its weight and ``empty`` the state
of the empty text at the same place:

- ``comfy``: ``empty + w * (z - empty)``.
- ``A1111``: ``w * z``, then everything times one factor that restores the mean of all of the text.
- ``compel``: weights above 1 as ``comfy``. Weights below 1 mix encodings of the text in which
  words are masked: with 0.2 and 0.5 in use, 0.2 of the full text, 0.3 of the text without the words
  at 0.2, and 0.5 of the text without either.
- ``comfy++``: weights below 1 as ``compel``; above 1 a word's states move on, away from what its
  places hold when that word alone is masked.
- ``down_weight``: all weights are divided by the largest, which is at least 1, then as ``compel``.

All but A1111 add multiples of differences between encodings, so a plan lists those encodings, each
once, and the multiples. Whoever has a text encoder runs the plan's chunks through it, in one batch.

Which places a weight below 1 masks is a matter of its own, ``masking``:

- ``compatible``: what ComfyUI_ADV_CLIP_emb and prompt-control do under NumPy 2, whose ``unique``
  hands indices back in the shape of its input. Every chunk with such a weight, the n-th of the text
  counted from 0, masks place n of the text (start tokens count): the words themselves stay.
- ``words``: the words of that weight, as those packs did under NumPy 1 and as their README and
  compel's say.

Where a definition ends in a division by zero or leaves float32, this is done instead:

- ``A1111`` with a mean of 0 before or after, or a factor too large for float32: no factor.
- weights beyond ±1e12 count as ±1e12, nan as 1.

The pooled vector is never weighted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_INTERPRETATIONS = ("comfy", "A1111", "compel", "comfy++", "down_weight")
TOKEN_NORMALIZATIONS = ("none", "mean", "length", "length+mean")
MASKINGS = ("compatible", "words")

Entry = Any
"""One place of a chunk: a token id, or a vector (a textual inversion's row)."""

WeightedChunk = Sequence[tuple[Entry, float, int]]
"""77 of ``(entry, weight, word id)``; word 0 is what the user did not type: start, end, pads."""

MASK_TOKEN = 266
"""``+</w>``: what stands in the place of a masked word, in ComfyUI_ADV_CLIP_emb and so here."""

START_TOKEN, END_TOKEN, PAD_TOKEN = 49406, 49407, 0

LARGEST_WEIGHT = 1e12
"""Products of two weights and a state stay finite in float32."""


@dataclass(frozen=True)
class Difference:
    """``multiples`` (one for each place) of how another chunk differs from one of the text's."""

    own: int
    """Index of ``WeightingPlan.own``."""
    other: int
    """Index of ``WeightingPlan.chunks``."""
    multiples: tuple[float, ...]


@dataclass(frozen=True)
class WeightingPlan:
    """Which chunks to encode for one text, and how its conditioning follows from their states."""

    chunks: tuple[tuple[Entry, ...], ...]
    """The text's own first, then the others, none twice."""
    own: tuple[int, ...]
    """For each chunk of the text its place in ``chunks``."""
    differences: tuple[Difference, ...] = ()
    factors: tuple[tuple[float, ...], ...] | None = None
    """A1111's weights, one row for each own chunk."""

    def combine(self, states: Tensor) -> Tensor:
        """The states of ``chunks``, (chunks, 77, W), to the conditioning (1, 77 * own, W)."""
        plain = states[list(self.own)]
        own = plain.clone()
        if self.factors is not None:
            own = _scale(plain, plain.new_tensor(self.factors).unsqueeze(-1))
        for difference in self.differences:
            multiples = states.new_tensor(difference.multiples).unsqueeze(-1)  # (77, 1)
            own[difference.own] += multiples * (states[difference.other] - plain[difference.own])
        return own.reshape(1, -1, own.shape[-1])


def plan_weighting(
    chunks: Sequence[WeightedChunk],
    weight_interpretation: str,
    token_normalization: str,
    masking: str = MASKINGS[0],
) -> WeightingPlan:
    """The plan for a text of any number of chunks, all of one length."""
    if masking not in MASKINGS:
        raise OptionError(f"masking {masking!r} is unknown. Choose one of: {', '.join(MASKINGS)}.")
    if weight_interpretation not in WEIGHT_INTERPRETATIONS:
        raise OptionError(
            f"weight_interpretation {weight_interpretation!r} is unknown. "
            f"Choose one of: {', '.join(WEIGHT_INTERPRETATIONS)}."
        )
    weights = normalize_weights(chunks, token_normalization)
    plan = _Plan(chunks, weights)
    if weight_interpretation == "A1111":
        return plan.scaled()
    if weight_interpretation == "down_weight":
        plan.divide_by_largest()
    if weight_interpretation == "comfy":
        plan.move_from_empty()
    else:
        plan.mix_masked(masking, amplified=weight_interpretation == "compel")
    if weight_interpretation == "comfy++":
        plan.move_from_masked()
    return plan.done()


def normalize_weights(
    chunks: Sequence[WeightedChunk], token_normalization: str
) -> list[list[float]]:
    """The weights of *chunks*, by place, after token normalisation.

    ``length`` takes from a word of n tokens and weight w: each gets ``1 ± sqrt((w - 1)² / n)``.
    ``mean`` adds to the weights of all words one number that makes their mean 1. A word is what
    the tokenizer gave one word id: a weighted stretch of text, or a textual inversion.
    """
    if token_normalization not in TOKEN_NORMALIZATIONS:
        raise OptionError(
            f"token_normalization {token_normalization!r} is unknown. "
            f"Choose one of: {', '.join(TOKEN_NORMALIZATIONS)}."
        )
    weights = [[_usable(weight) for _, weight, _ in chunk] for chunk in chunks]
    words = [[word for _, _, word in chunk] for chunk in chunks]

    def change_words(change: Callable[[float, int], float]) -> list[list[float]]:
        return [
            [change(w, word) if word else w for w, word in zip(*rows, strict=True)]
            for rows in zip(weights, words, strict=True)
        ]

    if token_normalization in ("length", "length+mean"):
        lengths = Counter(word for row in words for word in row)
        weights = change_words(lambda weight, word: 1.0 + (weight - 1.0) / math.sqrt(lengths[word]))
    if token_normalization in ("mean", "length+mean"):
        typed = [
            w
            for rows in zip(weights, words, strict=True)
            for w, word in zip(*rows, strict=True)
            if word
        ]
        if typed:
            shift = 1.0 - math.fsum(typed) / len(typed)
            weights = change_words(lambda weight, _: weight + shift)
    return weights


def with_normalized_weights(
    chunks: Sequence[WeightedChunk], token_normalization: str
) -> list[list[tuple[Entry, float]]]:
    """*chunks* as a text encoder takes them that weighs tokens itself, as ``comfy`` does."""
    weights = normalize_weights(chunks, token_normalization)
    return [
        [(entry[0], weight) for entry, weight in zip(chunk, row, strict=True)]
        for chunk, row in zip(chunks, weights, strict=True)
    ]


def _usable(weight: float) -> float:
    if math.isnan(weight):
        return 1.0
    return max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, float(weight)))


def _scale(own: Tensor, factors: Tensor) -> Tensor:
    """A1111's weighting of all chunks of a text."""
    import torch

    weighted = own * factors
    before, after = own.mean(), weighted.mean()
    if before != 0 and after != 0:
        restored = weighted * (before / after)
        if torch.isfinite(restored).all():
            return restored
    return weighted


class _Plan:
    """A plan in the making: encodings by content, multiples by own chunk and encoding."""

    def __init__(self, chunks: Sequence[WeightedChunk], weights: list[list[float]]) -> None:
        self._weights = weights
        self._words = [[word for _, _, word in chunk] for chunk in chunks]
        self._own = [tuple(entry for entry, _, _ in chunk) for chunk in chunks]
        self._chunks: list[tuple[Entry, ...]] = []
        self._index: dict[tuple[Any, ...], int] = {}
        self._own_index = tuple(self._place(chunk) for chunk in self._own)
        self._multiples: dict[tuple[int, int], list[float]] = {}
        length = len(self._own[0]) if self._own else 2
        self._empty = (START_TOKEN, END_TOKEN, *[PAD_TOKEN] * (length - 2))

    def done(self) -> WeightingPlan:
        return WeightingPlan(
            chunks=tuple(self._chunks),
            own=self._own_index,
            differences=tuple(
                Difference(own, other, tuple(multiples))
                for (own, other), multiples in self._multiples.items()
            ),
        )

    def scaled(self) -> WeightingPlan:
        plain = all(weight == 1.0 for row in self._weights for weight in row)
        factors = None if plain else tuple(map(tuple, self._weights))
        return WeightingPlan(tuple(self._chunks), self._own_index, factors=factors)

    def divide_by_largest(self) -> None:
        # The start token takes part with its 1, so this never divides by less.
        largest = max(1.0, *(weight for row in self._weights for weight in row))
        self._weights = [
            [weight / largest if word else 1.0 for weight, word in zip(*rows, strict=True)]
            for rows in zip(self._weights, self._words, strict=True)
        ]

    def move_from_empty(self) -> None:
        for own, row in enumerate(self._weights):
            self._add(own, self._empty, [1.0 - weight for weight in row])

    def mix_masked(self, masking: str, *, amplified: bool) -> None:
        """Mix encodings with the places of the lowest weight masked, of the lowest two, and so on.

        With *amplified*, each of these encodings has its weights above 1 as ``comfy`` has them,
        but at its masked places.
        """
        levels = sorted({weight for row in self._weights for weight in row if weight < 1.0})
        level_of = {weight: level for level, weight in enumerate(levels)}
        masked_at = self._masked_places(level_of, masking)
        for own, row in enumerate(self._weights):
            masked = list(self._own[own])
            strengths = [max(weight, 1.0) if amplified else 1.0 for weight in row]
            from_empty = [0.0] * len(row)
            below = 0.0
            for level in [*sorted(masked_at[own]), None]:
                above = 1.0 if level is None else levels[level]
                share = above - below
                self._add(own, tuple(masked), [share * strength for strength in strengths])
                from_empty = [
                    so_far + share * (1.0 - strength)
                    for so_far, strength in zip(from_empty, strengths, strict=True)
                ]
                below = above
                for place in [] if level is None else masked_at[own][level]:
                    masked[place] = MASK_TOKEN
                    strengths[place] = 1.0
            self._add(own, self._empty, from_empty)

    def _masked_places(
        self, level_of: Mapping[float, int], masking: str
    ) -> list[dict[int, set[int]]]:
        """For each own chunk: the level of weight to the places that it masks."""
        places: list[dict[int, set[int]]] = [{} for _ in self._own]
        for own, row in enumerate(self._weights):
            for place, weight in enumerate(row):
                if weight < 1.0:
                    chunk, at = (own, place) if masking == "words" else divmod(own, len(row))
                    places[chunk].setdefault(level_of[weight], set()).add(at)
        return places

    def move_from_masked(self) -> None:
        for own, (row, words) in enumerate(zip(self._weights, self._words, strict=True)):
            places: dict[int, list[int]] = {}
            for place, (weight, word) in enumerate(zip(row, words, strict=True)):
                if weight > 1.0:
                    places.setdefault(word, []).append(place)
            for word in places:
                masked = tuple(
                    MASK_TOKEN if other == word else entry
                    for entry, other in zip(self._own[own], words, strict=True)
                )
                multiples = [0.0] * len(row)
                for place in places[word]:
                    multiples[place] = 1.0 - row[place]
                self._add(own, masked, multiples)

    def _add(self, own: int, chunk: tuple[Entry, ...], multiples: list[float]) -> None:
        if not any(multiples):
            return
        other = self._place(chunk)
        if other == self._own_index[own]:
            return
        before = self._multiples.get((own, other))
        if before is not None:
            multiples = [a + b for a, b in zip(before, multiples, strict=True)]
        self._multiples[own, other] = multiples

    def _place(self, chunk: tuple[Entry, ...]) -> int:
        """The index of *chunk* among the chunks to encode."""
        content = _content(chunk)
        if content not in self._index:
            self._index[content] = len(self._chunks)
            self._chunks.append(chunk)
        return self._index[content]


def _content(chunk: tuple[Entry, ...]) -> tuple[Any, ...]:
    """What makes two chunks the same to the encoder; vectors are told apart by identity."""
    return tuple(entry if isinstance(entry, int) else ("vector", id(entry)) for entry in chunk)
