"""Tokenizes text in any syntax: the entry point for everything that encodes or shows text.

ComfyUI's syntax makes one prompt of a text. A1111's prompt editing and AND make several, each with
its time and its strength.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ..syntax.a1111 import parse_a1111
from ..syntax.a1111_marks import a1111_hint
from .chunks import MAX_TEXT_TOKENS
from .sd_tokenizer import SDTokenizer, require_text
from .tokenized_text import TokenizedText

MOST_STEPS = 10_000
"""Of sampling; ComfyUI's samplers accept no more."""

LISTED_PROMPTS = 12


@dataclass(frozen=True, eq=False)
class ScheduledPrompt:
    """The tokens of a prompt, and the share of the sampling (0 to 1) in which they count."""

    text: str
    tokens: TokenizedText
    start: float = 0.0
    end: float = 1.0
    strength: float | None = None
    """Relative to the other prompts of the same time; None: there are no others."""

    def when(self) -> str:
        """Describe time and strength for people."""
        time = "" if (self.start, self.end) == (0.0, 1.0) else f"{self.start:.4g} to {self.end:.4g}"
        strength = "" if self.strength is None else f"strength {self.strength:g}"
        return ", ".join(filter(None, (time, strength))) or "always"


@dataclass(frozen=True, eq=False)
class PromptSchedule:
    """The prompts of a text, as they will be encoded."""

    prompts: tuple[ScheduledPrompt, ...]
    warnings: tuple[str, ...] = ()
    """About the text as a whole; the tokens of each prompt have their own."""
    error: str | None = None
    """Error message if this text cannot be expressed as conditioning, else None."""
    comments: int = 0
    """How many were left out."""

    @property
    def is_plain(self) -> bool:
        """Whether there is one prompt, which holds all the time."""
        return len(self.prompts) == 1 and self.prompts[0].when() == "always"

    def without_padding(self) -> PromptSchedule:
        """Leave out the rows of pad tokens; an error unless there is one prompt of one chunk."""
        if self.error:
            return self
        first, *others = self.prompts
        tokens = first.tokens
        if others:
            error = (
                f"padding 'none' encodes one prompt, and this text makes {len(self.prompts)} of "
                "them (by prompt editing or AND). Remove those, or set padding to 'chunk'."
            )
            return replace(self, error=error)
        if len(tokens.chunks) > 1:
            error = (
                f"padding 'none' encodes one chunk of up to {MAX_TEXT_TOKENS} tokens, and this "
                f"text takes {len(tokens.chunks)} chunks ({tokens.token_count} tokens). Shorten "
                "it, remove BREAK, or set padding to 'chunk'."
            )
            return replace(self, error=error)
        return replace(self, prompts=(replace(first, tokens=replace(tokens, padded=False)),))

    def report(self) -> str:
        """Report on the tokens of each prompt, one line for each fact."""
        count = len(self.prompts)
        lines = [] if self.is_plain else [f"{count} parts, by time of sampling (0 to 1)"]
        if self.comments:
            noun = "comment" if self.comments == 1 else "comments"
            lines.append(f"left out: {self.comments} {noun} (# to the end of the line)")
        for prompt in self.prompts[:LISTED_PROMPTS]:
            if not self.is_plain:
                lines.append(f"[{prompt.when()}] {_shortened(prompt.text)}")
            lines.append(prompt.tokens.report())
        if count > LISTED_PROMPTS:
            lines.append(f"… and {count - LISTED_PROMPTS} more parts")
        lines += [f"warning: {warning}" for warning in self.warnings]
        if self.error:
            lines.append(f"error: {self.error}")
        return "\n".join(lines)

    def table(self) -> str:
        """Return the report, then one line for each token: chunk, id, weight, text."""
        return "\n".join([self.report(), *self._table_lines()])

    def _table_lines(self) -> Iterator[str]:
        for prompt in self.prompts[:LISTED_PROMPTS]:
            yield "" if self.is_plain else f"\n[{prompt.when()}] {_shortened(prompt.text)}"
            yield f"{'chunk':>5} {'id':>6} {'weight':>7}  text"
            for row in prompt.tokens.rows():
                if row["kind"] in ("token", "embedding"):
                    token = "-" if row["id"] is None else row["id"]
                    chunk, weight = row["chunk"] + 1, row["weight"]
                    yield f"{chunk:>5} {token:>6} {weight:>7.3g}  {row['text']}"


def tokenize_text(
    tokenizer: SDTokenizer,
    text: str,
    *,
    syntax: str = "comfy",
    steps: int = 0,
    chunk_split: str = "tokens",
    padding: str = "chunk",
) -> PromptSchedule:
    """Tokenize *text*; the options are those of ``EncodeOptions``."""
    require_text(text)
    schedule = _SYNTAXES[syntax](tokenizer, text, steps, chunk_split == "words")
    return schedule.without_padding() if padding == "none" else schedule


def _tokenize_comfy(
    tokenizer: SDTokenizer, text: str, steps: int, keep_words: bool
) -> PromptSchedule:
    prompt = ScheduledPrompt(text, tokenizer.tokenize(text, keep_words=keep_words))
    hint = a1111_hint(text)
    return PromptSchedule((prompt,), () if hint is None else (hint,))


def _tokenize_a1111(
    tokenizer: SDTokenizer, text: str, steps: int, keep_words: bool
) -> PromptSchedule:
    parsed = parse_a1111(text, steps or None)
    tokenized: dict[str, TokenizedText] = {}
    prompts = []
    for prompt in parsed.prompts:
        if prompt.text not in tokenized:  # alternating texts come back
            tokenized[prompt.text] = tokenizer.tokenize_a1111(
                prompt.sections, keep_words=keep_words
            )
        tokens = tokenized[prompt.text]
        strength = prompt.strength if len(parsed.strengths) > 1 else None
        prompts.append(ScheduledPrompt(prompt.text, tokens, prompt.start, prompt.end, strength))
    return PromptSchedule(tuple(prompts), parsed.warnings, parsed.error, parsed.comments)


_SYNTAXES: Mapping[str, Callable[[SDTokenizer, str, int, bool], PromptSchedule]] = {
    "comfy": _tokenize_comfy,
    "a1111": _tokenize_a1111,
}

SYNTAXES = tuple(_SYNTAXES)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 70 else f"{text[:50]}…{text[-19:]}")
