"""Compares two encodings token by token: how far apart their conditionings are."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from ..sd2.errors import OptionError
from .encode_text import EncodedText

if TYPE_CHECKING:
    import torch

    from ..sd2.tokens.tokenize_text import ScheduledPrompt
    from ..sd2.tokens.tokenized_text import TokenizedText

EXPLANATION = "distance: |B - A| / |A|, 0 where equal; cosine: 1 where the direction is the same"

HEAD = f"{'row A':>6} {'row B':>6} {'weight A':>8} {'weight B':>8} {'distance':>9} {'cosine':>8}"


@dataclass(frozen=True)
class Distance:
    """How far apart two vectors are."""

    relative: float
    """Length of B - A, divided by A's length."""
    cosine: float
    """Of the angle between A and B."""

    @classmethod
    def of(cls, a: torch.Tensor, b: torch.Tensor) -> Distance:
        length_a, length_b, apart = (float(one.norm()) for one in (a, b, b - a))
        if not apart:
            return cls(0.0, 1.0)
        if not length_a or not length_b:
            return cls(apart / length_a if length_a else float("inf"), 0.0)
        # Rounding may lead beyond 1.
        return cls(apart / length_a, min(1.0, float(a @ b) / (length_a * length_b)))

    def columns(self) -> str:
        """Return the two columns of a table."""
        return f"{self.relative:>9.3g} {self.cosine:>8.5f}"


@dataclass(frozen=True)
class Place:
    """A token and the row of the conditioning that belongs to it."""

    row: int
    text: str
    weight: float
    kind: str


@dataclass(frozen=True)
class Pair:
    """A token of A and one of B, or a token that the other text does not have."""

    a: Place | None
    b: Place | None
    distance: Distance | None
    """None if one of the two is missing."""
    count: int = 1
    """Of padding: how many rows the means are of."""

    @property
    def is_padding(self) -> bool:
        """Whether the row is padding wherever it is."""
        return all(place.kind == "pad" for place in (self.a, self.b) if place is not None)

    @property
    def label(self) -> str:
        """The token, or both where they differ."""
        if self.is_padding:
            mean_of = "mean of " if self.distance else ""
            return "padding" if self.count == 1 else f"padding, {mean_of}{self.count} rows"
        return " \u2192 ".join(
            dict.fromkeys(one.text for one in (self.a, self.b) if one is not None)
        )

    def line(self) -> str:
        """Return the line of a table."""
        rows = " ".join(f"{'-' if one is None else one.row:>6}" for one in (self.a, self.b))
        weights = (format(one.weight, ".3g") if one else "-" for one in (self.a, self.b))
        only = "" if self.distance else f"  (only in {'A' if self.a else 'B'})"
        numbers = self.distance.columns() if self.distance else f"{'-':>9} {'-':>8}"
        return f"{rows} {' '.join(f'{one:>8}' for one in weights)} {numbers}  {self.label}{only}"


@dataclass(frozen=True)
class ComparedPrompt:
    """The conditionings of a prompt of A and of one of B."""

    when: str
    """When the prompt of A holds, and how strongly; "" if the text has no other."""
    pairs: Sequence[Pair]
    """In order; the padding behind a text is one pair."""
    total: Distance
    """Of all rows that are compared, as one vector."""
    pooled: Distance | None
    """Of the pooled vectors, if both have one."""
    is_equal: bool
    """Whether no value of the conditionings differs."""

    def lines(self) -> Iterator[str]:
        """Yield the lines of a table."""
        yield f"{HEAD}  token"
        for pair in self.pairs:
            yield pair.line()
        indent = " " * (len(HEAD) - len(self.total.columns()))
        yield f"{indent}{self.total.columns()}  all compared rows"
        if self.pooled is not None:
            yield f"{indent}{self.pooled.columns()}  pooled vector"
        if self.is_equal:
            yield "The conditionings are equal."


@dataclass(frozen=True)
class Comparison:
    """Two encoded texts, prompt by prompt: A1111's syntax may make several of a text."""

    prompts: Sequence[ComparedPrompt]

    def table(self) -> str:
        """Return a table for people."""
        lines = [EXPLANATION]
        for prompt in self.prompts:
            lines += ["", f"[{prompt.when}]"] if prompt.when else [""]
            lines += prompt.lines()
        return "\n".join(lines)


def compare(a: EncodedText, b: EncodedText) -> Comparison:
    """Compare two encoded texts, token by token.

    Tokens are paired as in a comparison of two files: those that both texts have in the same order,
    at whatever position, and those that replace as many others. Start, end and padding are paired
    by position.
    """
    counts = [len(one.schedule.prompts) for one in (a, b)]
    if [len(one.conditioning) for one in (a, b)] != counts:
        raise OptionError(
            "The weights of this CLIP change during sampling (hooks), so that a text has several "
            "conditionings. Compare before the hooks are set."
        )
    if counts[0] != counts[1]:
        raise OptionError(
            f"Prompt editing or AND makes {counts[0]} prompts of A, but {counts[1]} of B. Compare "
            "texts that have the same number of prompts."
        )
    sides = (zip(one.schedule.prompts, one.conditioning, strict=True) for one in (a, b))
    return Comparison(
        [
            _compare_prompts(*of_a, *of_b, when="" if a.schedule.is_plain else of_a[0].when())
            for of_a, of_b in zip(*sides, strict=True)
        ]
    )


def _compare_prompts(
    prompt_a: ScheduledPrompt, a: list[Any], prompt_b: ScheduledPrompt, b: list[Any], *, when: str
) -> ComparedPrompt:
    import torch

    rows_a, rows_b = _rows(a[0]), _rows(b[0])
    if rows_a.shape[1] != rows_b.shape[1]:
        raise OptionError(
            f"A has {rows_a.shape[1]} values for each token, B {rows_b.shape[1]}. Compare "
            "encodings of the same layer of models of one width."
        )
    places = _places(prompt_a.tokens, len(rows_a)), _places(prompt_b.tokens, len(rows_b))
    pairs = [
        Pair(one, other, Distance.of(rows_a[one.row], rows_b[other.row]) if one and other else None)
        for one, other in _paired(*places)
    ]
    both = [(pair.a.row, pair.b.row) for pair in pairs if pair.a and pair.b]
    which_a, which_b = map(list, zip(*both, strict=True))
    vectors = [about.get("pooled_output") for _, about in (a, b)]
    pooled = [one.double().flatten().cpu() for one in vectors if one is not None]
    return ComparedPrompt(
        when=when,
        pairs=_with_padding_merged(pairs),
        total=Distance.of(rows_a[which_a].flatten(), rows_b[which_b].flatten()),
        pooled=Distance.of(*pooled) if len(pooled) == 2 else None,
        is_equal=torch.equal(rows_a, rows_b),
    )


def _rows(cond: torch.Tensor) -> torch.Tensor:
    """Return a conditioning's rows, (T, W); with all layers (T, L · W)."""
    return cond[0].double().cpu().movedim(-2, 0).flatten(1)


def _places(tokens: TokenizedText, rows: int) -> list[Place]:
    """Return the token of each row; without padding there are fewer rows than positions."""
    return [
        Place(number, row["text"], row["weight"], row["kind"])
        for number, row in enumerate(tokens.rows()[:rows])
    ]


def _paired(
    a: Sequence[Place], b: Sequence[Place]
) -> Iterator[tuple[Place, Place] | tuple[Place, None] | tuple[None, Place]]:
    matcher = SequenceMatcher(None, list(map(_key, a)), list(map(_key, b)), autojunk=False)
    for _, a0, a1, b0, b1 in matcher.get_opcodes():
        some_a, some_b = a[a0:a1], b[b0:b1]
        are_texts = all(place.kind in ("token", "embedding") for place in (*some_a, *some_b))
        if len(some_a) == len(some_b) and (are_texts or a[a0].kind == b[b0].kind):
            yield from zip(some_a, some_b, strict=True)
        else:
            yield from ((place, None) for place in some_a)
            yield from ((None, place) for place in some_b)


def _key(place: Place) -> Hashable:
    """Return what two places have in common that are the same token."""
    if place.kind in ("token", "embedding"):
        return place.kind, place.text
    return (place.kind, place.row) if place.kind == "pad" else place.kind


def _with_padding_merged(pairs: Sequence[Pair]) -> list[Pair]:
    """Return *pairs* with each run of padding as one, of mean distances."""
    runs: list[list[Pair]] = []
    for pair in pairs:
        last = runs[-1][-1] if runs else None
        if last and last.is_padding and pair.is_padding and _is_same_side(last, pair):
            runs[-1].append(pair)
        else:
            runs.append([pair])
    return [run[0] if len(run) == 1 else _mean(run) for run in runs]


def _is_same_side(one: Pair, other: Pair) -> bool:
    return (one.a is None, one.b is None) == (other.a is None, other.b is None)


def _mean(run: Sequence[Pair]) -> Pair:
    found = [pair.distance for pair in run if pair.distance]
    if not found:
        return Pair(run[0].a, run[0].b, None, len(run))
    relative = sum(one.relative for one in found) / len(run)
    cosine = sum(one.cosine for one in found) / len(run)
    return Pair(run[0].a, run[0].b, Distance(relative, cosine), len(run))
