"""From what the user typed to tokens, in any dialect: the way in for all who encode or show text.

A text in ComfyUI's dialect is one part. A1111's prompt editing and AND make several, each with its
time and its strength.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import OptionError
from ..syntax.a1111 import parse_a1111
from .sd_tokenizer import SDTokenizer
from .tokenized_text import TokenizedText

SYNTAXES = ("comfy", "a1111")
CHUNK_SPLITS = ("tokens", "words")
"""Where a long text may be cut: anywhere, as ComfyUI does, or only between words."""

MOST_STEPS = 10_000
"""Of sampling; ComfyUI's samplers take no more."""

LISTED_PARTS = 12


@dataclass(frozen=True, eq=False)
class ReadPart:
    """Tokens, and the share of the sampling (0 to 1) in which they count."""

    text: str
    tokens: TokenizedText
    start: float = 0.0
    end: float = 1.0
    strength: float | None = None
    """Beside the other parts of the same time; None: it is alone."""

    def when(self) -> str:
        """For people: when, and how strong."""
        time = "" if (self.start, self.end) == (0.0, 1.0) else f"{self.start:.4g} to {self.end:.4g}"
        strength = "" if self.strength is None else f"strength {self.strength:g}"
        return ", ".join(filter(None, (time, strength))) or "always"


@dataclass(frozen=True, eq=False)
class ReadText:
    """A text as it will be encoded."""

    parts: tuple[ReadPart, ...]
    warnings: tuple[str, ...] = ()
    """Of the text as a whole; each part's tokens have their own."""
    obstacle: str | None = None
    """Why no conditioning can mean what the text means."""

    @property
    def is_plain(self) -> bool:
        """One part, for all of the time."""
        return len(self.parts) == 1 and self.parts[0].when() == "always"

    def report(self) -> str:
        """The tokens' report, of each part if there are several; a line for each fact."""
        lines = [] if self.is_plain else [f"{len(self.parts)} parts, by time of sampling (0 to 1)"]
        for part in self.parts[:LISTED_PARTS]:
            if not self.is_plain:
                lines.append(f"[{part.when()}] {_shortened(part.text)}")
            lines.append(part.tokens.report())
        if len(self.parts) > LISTED_PARTS:
            lines.append(f"… and {len(self.parts) - LISTED_PARTS} more parts")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.obstacle:
            lines.append(f"error: {self.obstacle}")
        return "\n".join(lines)

    def table(self) -> str:
        """The report, then a line for each token in order: chunk, id, weight, text."""
        return "\n".join([self.report(), *self._rows()])

    def _rows(self) -> Iterator[str]:
        for part in self.parts[:LISTED_PARTS]:
            yield "" if self.is_plain else f"\n[{part.when()}] {_shortened(part.text)}"
            yield f"{'chunk':>5} {'id':>6} {'weight':>7}  text"
            for row in part.tokens.rows():
                if row["kind"] in ("token", "embedding"):
                    token = "-" if row["id"] is None else row["id"]
                    chunk, weight = row["chunk"] + 1, row["weight"]
                    yield f"{chunk:>5} {token:>6} {weight:>7.3g}  {row['text']}"


def read(
    tokenizer: SDTokenizer,
    text: str,
    *,
    syntax: str = "comfy",
    steps: int = 0,
    chunk_split: str = "tokens",
) -> ReadText:
    """*text* as *tokenizer* reads it; A1111's dialect counts *steps* of sampling, 0: unknown.

    Raises:
        OptionError: for an argument that is none of its choices, or out of its range.
    """
    if syntax not in SYNTAXES:
        raise OptionError(f"syntax {syntax!r} is unknown. Choose one of: {', '.join(SYNTAXES)}.")
    if chunk_split not in CHUNK_SPLITS:
        raise OptionError(
            f"chunk_split {chunk_split!r} is unknown. Choose one of: {', '.join(CHUNK_SPLITS)}."
        )
    if not 0 <= steps <= MOST_STEPS:
        raise OptionError(f"steps {steps} is not between 0 and {MOST_STEPS}.")
    keep_words = chunk_split == "words"
    if syntax == "comfy":
        return ReadText((ReadPart(text, tokenizer.tokenize(text, keep_words=keep_words)),))
    prompt = parse_a1111(text, steps or None)
    tokenized: dict[str, TokenizedText] = {}
    parts = []
    for part in prompt.parts:
        if part.text not in tokenized:  # alternating texts come back
            tokenized[part.text] = tokenizer.tokenize_sections(part.sections, keep_words=keep_words)
        strength = part.strength if len(prompt.strengths) > 1 else None
        parts.append(ReadPart(part.text, tokenized[part.text], part.start, part.end, strength))
    return ReadText(tuple(parts), prompt.warnings, prompt.obstacle)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 70 else f"{text[:50]}…{text[-19:]}")
