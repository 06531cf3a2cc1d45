"""Turns token weights into multiples of text encoder states.

The names of the weight interpretations are those of ComfyUI_ADV_CLIP_emb, which users know. Each is
defined on one text, whatever else is encoded with it. With z the state of a token, w its weight and
``empty`` the state of the empty text at the same position:

- ``comfy``: ``empty + w * (z - empty)``. The text encoder itself applies it
  (``SDClipModel.encode_token_weights``), ours and ComfyUI's alike; here only its weights are
  normalized.
- ``A1111``: ``w * z``, then everything times one factor that restores the mean of the whole text.
- ``compel``: weights above 1 as ``comfy``. Weights below 1 mix encodings of the text in which words
  are masked: with 0.2 and 0.5 in use, 0.2 of the full text, 0.3 of the text without the words at
  0.2, and 0.5 of the text without either.
- ``comfy++``: weights below 1 as ``compel``. Above 1, the states of a word move away from the
  states at the same positions of the text in which only that word is masked.
- ``down_weight``: all weights are divided by the largest, which is at least 1, then as ``compel``.

The last three add multiples of differences between encodings. A plan lists those encodings, each
once, and the multiples; the caller encodes the plan's chunks in one batch.

Two cases have no finite result by these definitions:

- ``A1111`` with a mean of 0 before or after, or a factor too large for float32: no factor is used.
- Weights beyond ±1e12 count as ±1e12, NaN as 1.

The pooled vector is never weighted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import END_TOKEN, PAD_TOKEN, START_TOKEN

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_NORMALIZATIONS = ("none", "mean", "length", "length+mean")

TokenValue = Any
"""A token id, or the vector of a textual inversion."""

WeightedChunk = Sequence[tuple[TokenValue, float, int]]
"""77 of ``(value, weight, word id)``; start, end and pad tokens have word id 0."""

MASK_TOKEN = 266
"""``+</w>``: replaces each token of a masked word, as in ComfyUI_ADV_CLIP_emb."""

WEIGHT_LIMIT = 1e12
"""Products of two weights and a state stay finite in float32."""


@dataclass(frozen=True)
class Difference:
    """Adds ``multiples`` (one per position) of the difference between two chunks' states."""

    own: int
    """The chunk that changes, as an index of ``WeightingPlan.own``."""
    other: int
    """The chunk that it moves to, as an index of ``WeightingPlan.chunks``."""
    multiples: tuple[float, ...]


@dataclass(frozen=True)
class WeightingPlan:
    """Which chunks to encode for one text, and how to combine their states."""

    chunks: tuple[tuple[TokenValue, ...], ...]
    """The chunks to encode, without duplicates: those of the text first."""
    own: tuple[int, ...]
    """For each chunk of the text, its index in ``chunks``."""
    differences: tuple[Difference, ...] = ()
    factors: tuple[tuple[float, ...], ...] | None = None
    """A1111's weights: one row per chunk of the text."""

    def combine(self, states: Tensor) -> Tensor:
        """Combine the states of ``chunks``, (chunks, 77, W), into conditioning (1, 77 * own, W)."""
        plain = states[list(self.own)]
        own = plain.clone()
        if self.factors is not None:
            own = _scale(plain, plain.new_tensor(self.factors).unsqueeze(-1))
        for difference in self.differences:
            multiples = states.new_tensor(difference.multiples).unsqueeze(-1)  # (77, 1)
            own[difference.own] += multiples * (states[difference.other] - plain[difference.own])
        return own.reshape(1, -1, own.shape[-1])


def plan_weighting(
    chunks: Sequence[WeightedChunk], weight_interpretation: str, token_normalization: str
) -> WeightingPlan:
    """Plan the weighting of one text: any number of chunks, all of one length.

    Not for ``comfy``, which needs no plan.
    """
    plan = _PlanBuilder(chunks, normalize_weights(chunks, token_normalization))
    _INTERPRETATIONS[weight_interpretation](plan)
    return plan.finished()


def normalize_weights(
    chunks: Sequence[WeightedChunk], token_normalization: str
) -> list[list[float]]:
    """Return the weights of *chunks*, one row per chunk, after token normalization.

    ``length`` spreads a word's weight w over its n tokens: each gets ``1 ± sqrt((w - 1)² / n)``.
    ``mean`` shifts the weights of all words alike, so that their mean is 1. A word is what the
    tokenizer gave one word id: a stretch of text of one weight, or a textual inversion.
    """
    weights = [[_limited(weight) for _, weight, _ in chunk] for chunk in chunks]
    word_ids = [[word_id for _, _, word_id in chunk] for chunk in chunks]

    def change_words(change: Callable[[float, int], float]) -> list[list[float]]:
        return [
            [change(w, word_id) if word_id else w for w, word_id in zip(*rows, strict=True)]
            for rows in zip(weights, word_ids, strict=True)
        ]

    steps = token_normalization.split("+")
    if "length" in steps:
        lengths = Counter(word_id for row in word_ids for word_id in row)
        weights = change_words(lambda w, word_id: 1.0 + (w - 1.0) / math.sqrt(lengths[word_id]))
    if "mean" in steps:
        of_words = [
            w
            for rows in zip(weights, word_ids, strict=True)
            for w, word_id in zip(*rows, strict=True)
            if word_id
        ]
        if of_words:
            shift = 1.0 - math.fsum(of_words) / len(of_words)
            weights = change_words(lambda w, _: w + shift)
    return weights


def with_normalized_weights(
    chunks: Sequence[WeightedChunk], token_normalization: str
) -> list[list[tuple[TokenValue, float]]]:
    """Return *chunks* as ``(value, weight)`` for an encoder that applies weights itself."""
    weights = normalize_weights(chunks, token_normalization)
    return [
        [(value, weight) for (value, *_), weight in zip(chunk, row, strict=True)]
        for chunk, row in zip(chunks, weights, strict=True)
    ]


def _limited(weight: float) -> float:
    if math.isnan(weight):
        return 1.0
    return max(-WEIGHT_LIMIT, min(WEIGHT_LIMIT, float(weight)))


def _scale(own: Tensor, factors: Tensor) -> Tensor:
    """Multiply all chunks of a text by *factors* and restore their mean, as A1111 does."""
    import torch

    weighted = own * factors
    before, after = own.mean(), weighted.mean()
    if before != 0 and after != 0:
        restored = weighted * (before / after)
        if torch.isfinite(restored).all():
            return restored
    return weighted


class _PlanBuilder:
    """Collects a plan: encodings by content, multiples by own chunk and encoding."""

    def __init__(self, chunks: Sequence[WeightedChunk], weights: list[list[float]]) -> None:
        self._weights = weights
        self._word_ids = [[word_id for _, _, word_id in chunk] for chunk in chunks]
        self._own = [tuple(value for value, _, _ in chunk) for chunk in chunks]
        self._chunks: list[tuple[TokenValue, ...]] = []
        self._index: dict[tuple[Any, ...], int] = {}
        self._own_index = tuple(self._index_of(chunk) for chunk in self._own)
        self._multiples: dict[tuple[int, int], list[float]] = {}
        self._factors: tuple[tuple[float, ...], ...] | None = None
        length = len(self._own[0]) if self._own else 2
        self._empty = (START_TOKEN, END_TOKEN, *[PAD_TOKEN] * (length - 2))

    def finished(self) -> WeightingPlan:
        return WeightingPlan(
            chunks=tuple(self._chunks),
            own=self._own_index,
            differences=tuple(
                Difference(own, other, tuple(multiples))
                for (own, other), multiples in self._multiples.items()
            ),
            factors=self._factors,
        )

    def scale(self) -> None:
        """Multiply each state by its weight."""
        if any(weight != 1.0 for row in self._weights for weight in row):
            self._factors = tuple(map(tuple, self._weights))

    def divide_by_largest(self) -> None:
        """Divide all weights by the largest; the start token's 1 takes part."""
        largest = max(1.0, *(weight for row in self._weights for weight in row))
        self._weights = [
            [weight / largest if word_id else 1.0 for weight, word_id in zip(*rows, strict=True)]
            for rows in zip(self._weights, self._word_ids, strict=True)
        ]

    def mix_masked(self, *, amplified: bool) -> None:
        """Mix encodings in which the words of the lowest weight are masked, of the two lowest, ….

        With *amplified*, weights above 1 move the mix away from the empty text.
        """
        for own, row in enumerate(self._weights):
            amplification = [max(weight, 1.0) if amplified else 1.0 for weight in row]
            self._add(own, self._empty, [1.0 - factor for factor in amplification])
            masked = list(self._own[own])
            below = 0.0
            for level in sorted({weight for weight in row if weight < 1.0} | {1.0}):
                self._add(own, tuple(masked), [(level - below) * f for f in amplification])
                below = level
                for position, weight in enumerate(row):
                    if weight == level:
                        masked[position] = MASK_TOKEN

    def move_from_masked(self) -> None:
        """Move each word of weight above 1 away from its states in the text that masks it."""
        for own, (row, word_ids) in enumerate(zip(self._weights, self._word_ids, strict=True)):
            positions: dict[int, list[int]] = {}
            for position, (weight, word_id) in enumerate(zip(row, word_ids, strict=True)):
                if weight > 1.0:
                    positions.setdefault(word_id, []).append(position)
            for word_id, of_word in positions.items():
                masked = tuple(
                    MASK_TOKEN if other == word_id else value
                    for value, other in zip(self._own[own], word_ids, strict=True)
                )
                multiples = [0.0] * len(row)
                for position in of_word:
                    multiples[position] = 1.0 - row[position]
                self._add(own, masked, multiples)

    def _add(self, own: int, chunk: tuple[TokenValue, ...], multiples: list[float]) -> None:
        if not any(multiples):
            return
        other = self._index_of(chunk)
        if other == self._own_index[own]:
            return
        before = self._multiples.get((own, other))
        if before is not None:
            multiples = [a + b for a, b in zip(before, multiples, strict=True)]
        self._multiples[own, other] = multiples

    def _index_of(self, chunk: tuple[TokenValue, ...]) -> int:
        """Return the index of *chunk* among the chunks to encode; add it if it is new."""
        content = _content(chunk)
        if content not in self._index:
            self._index[content] = len(self._chunks)
            self._chunks.append(chunk)
        return self._index[content]


def _content(chunk: tuple[TokenValue, ...]) -> tuple[Any, ...]:
    """Return a key that is equal for equal chunks; vectors are compared by identity."""
    return tuple(value if isinstance(value, int) else ("vector", id(value)) for value in chunk)


def _a1111(plan: _PlanBuilder) -> None:
    plan.scale()


def _compel(plan: _PlanBuilder) -> None:
    plan.mix_masked(amplified=True)


def _comfy_plus_plus(plan: _PlanBuilder) -> None:
    plan.mix_masked(amplified=False)
    plan.move_from_masked()


def _down_weight(plan: _PlanBuilder) -> None:
    plan.divide_by_largest()
    plan.mix_masked(amplified=False)


_INTERPRETATIONS: Mapping[str, Callable[[_PlanBuilder], None]] = {
    "A1111": _a1111,
    "compel": _compel,
    "comfy++": _comfy_plus_plus,
    "down_weight": _down_weight,
}

WEIGHT_INTERPRETATIONS = ("comfy", *_INTERPRETATIONS)
