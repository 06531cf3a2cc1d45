"""A text as chunks of tokens, with what there is to report about it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from ..errors import and_more
from .bpe import Vocabulary

if TYPE_CHECKING:
    import torch

Kind: TypeAlias = Literal["start", "token", "embedding", "end", "pad"]
log = logging.getLogger("sd2_clip")
_logged: set[tuple[str, str]] = set()


class Token(NamedTuple):
    """A position of a chunk; ``value`` is a token id, or an embedding's vector (width,)."""

    value: "int | torch.Tensor"
    weight: float
    word_id: int
    """Number of the token's group, from 1; 0 for start, end and pad tokens."""
    kind: Kind
    label: str = ""
    """The name of an embedding's vector: ``embedding:name[2/4]``."""


@dataclass(frozen=True)
class UsedEmbedding:
    """A textual inversion whose ``rows`` vectors are among the tokens."""

    name: str
    path: str
    sha256: str
    rows: int


@dataclass(frozen=True)
class IgnoredEmbedding:
    """A textual inversion that the text names and that is left out."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class TokenizedText:
    """A text as the encoder accepts it: chunks of equal length, each ``start … end pad …``."""

    chunks: tuple[tuple[Token, ...], ...]
    vocabulary: Vocabulary = field(repr=False)
    embeddings: tuple[UsedEmbedding, ...] = ()
    ignored: tuple[IgnoredEmbedding, ...] = ()
    warnings: tuple[str, ...] = ()
    padded: bool = True
    """Whether the conditioning keeps the rows of pad tokens."""

    def pairs(self, word_ids: bool = False) -> list[list[tuple[Any, ...]]]:
        """Return the chunks as ComfyUI passes them: ``(value, weight)`` or ``(…, word id)``."""
        length = 3 if word_ids else 2
        return [[token[:length] for token in chunk] for chunk in self.chunks]

    @property
    def token_count(self) -> int:
        """Count the tokens of the text and the vectors of embeddings."""
        return sum(token.word_id > 0 for chunk in self.chunks for token in chunk)

    @property
    def row_count(self) -> int:
        """Count the rows of the conditioning: without padding, start, tokens and end."""
        if self.padded:
            return len(self.chunks) * len(self.chunks[0])
        return self.token_count + 2

    def cut_words(self) -> list[str]:
        """List the words that a chunk's end cuts, with ``|`` where it does."""
        return list(self._cut_words())

    def rows(self) -> list[dict[str, Any]]:
        """Return all positions in order as JSON objects.

        ``word`` is the word id; ``id`` is null for an embedding's vector; ``ends_word`` is false if
        the next token continues the word.
        """
        return [
            {
                "id": None if token.kind == "embedding" else token.value,
                "text": self._text(token),
                "weight": token.weight,
                "chunk": number,
                "word": token.word_id,
                "kind": token.kind,
                "ends_word": self._ends_word(token),
            }
            for number, chunk in enumerate(self.chunks)
            for token in chunk
        ]

    def log_ignored(self) -> None:
        """Log a warning for each ignored embedding, once per process for each name and reason.

        Only when the text is encoded: text that is merely shown may be half typed.
        """
        for item in self.ignored:
            if (item.name, item.reason) not in _logged:
                _logged.add((item.name, item.reason))
                log.warning("embedding:%s is ignored: %s", item.name, item.reason)

    def report(self) -> str:
        """Report counts, embeddings used and ignored, cut words and warnings, one line for each."""
        chunks, length = len(self.chunks), len(self.chunks[0])
        counts = f"{_count(self.token_count, 'token')}, {_count(chunks, 'chunk')} of {length}"
        unpadded = "" if self.padded else ", without padding"
        lines = [f"{counts}: conditioning of {self.row_count} rows{unpadded}"]
        if self.embeddings:
            used = [f"{e.name} ({_count(e.rows, 'vector')})" for e in self.embeddings]
            lines.append(f"embeddings: {and_more(used)}")
        lines += [f"ignored: embedding:{item.name}: {item.reason}" for item in self.ignored]
        if cut := self.cut_words():
            lines.append(f"cut by the end of a chunk: {and_more(cut)}")
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def _text(self, token: Token) -> str:
        return token.label or self.vocabulary.readable(_id(token))

    def _ends_word(self, token: Token) -> bool:
        return token.kind == "embedding" or self.vocabulary.ends_word(_id(token))

    def _cut_words(self) -> Iterator[str]:
        contents = [[token for token in chunk if token.word_id] for chunk in self.chunks]
        for before, after in pairwise(contents):
            if not before or not after or before[-1].word_id != after[0].word_id:
                continue
            last, first = before[-1], after[0]
            if last.kind == first.kind == "embedding":
                yield f"{last.label} | {first.label}"
            elif not self._ends_word(last):
                head = [_id(last)]
                for token in reversed(before[:-1]):
                    if token.word_id != last.word_id or self._ends_word(token):
                        break
                    head.append(_id(token))
                tail = []
                for token in after:
                    if token.word_id != last.word_id:
                        break
                    tail.append(_id(token))
                    if self._ends_word(token):
                        break
                readable = self.vocabulary.readable
                yield f"{readable(*reversed(head))}|{readable(*tail)}"


def _id(token: Token) -> int:
    assert isinstance(token.value, int)
    return token.value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
