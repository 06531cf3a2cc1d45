"""Fills chunks with groups of tokens, by the rules of each syntax: start, tokens, end, pads.

ComfyUI fills group by group, and cuts a group only if it is long. A1111 fills token by token, and
gives what follows a full chunk's last comma to the next chunk, if that is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from ..config import CONTEXT_LENGTH, END_TOKEN, PAD_TOKEN, START_TOKEN
from .tokenized_text import Token

T = TypeVar("T")

Group = Sequence[Token]
"""Tokens of one word id: a stretch of text of one weight, or an embedding's vectors."""

CHUNK_SPLITS = ("tokens", "words")
"""Where a long text may be cut: after any token, as ComfyUI does, or only between words."""

PADDINGS = ("chunk", "none")
"""Which rows of an encoding are kept: all of each chunk, or those up to the end token."""

MAX_TEXT_TOKENS = CONTEXT_LENGTH - 2
"""Tokens of a chunk between start and end: 75."""

MAX_WORD_LENGTH = 8
"""ComfyUI cuts groups of this many tokens or more where the chunk is full."""

COMMA_BACKTRACK = 20
"""A1111's setting "Prompt word wrap length limit", at its default."""

COMMA = 267
"""``,</w>``"""


def frame(content: Sequence[T], start: T, end: T, pad: T, length: int) -> list[T]:
    """Return the chunk of *length* positions that holds *content*."""
    return [start, *content, end, *[pad] * (length - 2 - len(content))]


def pad_chunk(ids: Sequence[int]) -> list[int]:
    """Return SD2's chunk of 77 token ids for a text of one chunk; *ids* are cut to 75."""
    return frame(ids[:MAX_TEXT_TOKENS], START_TOKEN, END_TOKEN, PAD_TOKEN, CONTEXT_LENGTH)


def fill_by_group(
    groups: Iterable[Group], capacity: int, *, cut_from: int = MAX_WORD_LENGTH
) -> list[list[Token]]:
    """Fill chunks of *capacity* tokens as ComfyUI does.

    A group that does not fit begins a chunk, unless it has *cut_from* tokens or more, or fits into
    no chunk: then the chunk is filled and the group goes on in the next.
    """
    chunk: list[Token] = []
    chunks = [chunk]
    for group in groups:
        cut = len(group) > capacity or len(group) >= cut_from
        if not cut and len(chunk) + len(group) > capacity:
            chunk = []
            chunks.append(chunk)
        done = 0
        while done < len(group):
            if len(chunk) == capacity:
                chunk = []
                chunks.append(chunk)
            part = group[done : done + capacity - len(chunk)]
            chunk.extend(part)
            done += len(part)
    return chunks


def fill_by_word(
    groups: Iterable[Group],
    capacity: int,
    ends_word: Callable[[int], bool],
    *,
    cut_from: int = MAX_WORD_LENGTH,
) -> list[list[Token]]:
    """Fill chunks as ``fill_by_group``, but cut long groups between words only.

    *ends_word* says of an id whether a word ends with it.
    """
    words = (word for group in groups for word in _words(group, ends_word, cut_from))
    return fill_by_group(words, capacity, cut_from=capacity + 1)


def _words(group: Group, ends_word: Callable[[int], bool], cut_from: int) -> Iterator[Group]:
    """Split a group that may be cut into words; any other group is one word."""
    if len(group) < cut_from or group[0].kind == "embedding":
        yield group
        return
    word: list[Token] = []
    for token in group:
        word.append(token)
        if isinstance(token.value, int) and ends_word(token.value):
            yield word
            word = []
    if word:
        yield word


def fill_by_comma(
    sections: Iterable[Iterable[Group]],
    capacity: int,
    ends_word: Callable[[int], bool] | None = None,
) -> list[list[Token]]:
    """Fill chunks of *capacity* tokens as A1111 does; each section begins a chunk.

    An empty section makes an empty chunk, as in A1111. With *ends_word*, a word that a full
    chunk would cut goes to the next chunk, if no comma decides.
    """
    filler = _CommaFiller(capacity, ends_word)
    for index, groups in enumerate(sections):
        if index:
            filler.next_chunk()
        for group in groups:
            if group and group[0].kind == "embedding":
                filler.add_embedding(group)
            else:
                for token in group:
                    filler.add_token(token)
    return filler.finished()


class _CommaFiller:
    """The chunks filled so far, and the one being filled."""

    def __init__(self, capacity: int, ends_word: Callable[[int], bool] | None) -> None:
        self._capacity = capacity
        self._ends_word = ends_word
        self._chunks: list[list[Token]] = []
        self._chunk: list[Token] = []
        self._after_comma: int | None = None
        """Position in the chunk after its last comma."""

    def finished(self) -> list[list[Token]]:
        if self._chunk or not self._chunks:
            self.next_chunk()
        return self._chunks

    def next_chunk(self) -> None:
        self._chunks.append(self._chunk)
        self._chunk = []
        self._after_comma = None

    def add_token(self, token: Token) -> None:
        is_comma = isinstance(token.value, int) and token.value == COMMA
        if not is_comma and len(self._chunk) == self._capacity:
            self._wrap()  # leaves a full chunk full if there is nothing to keep together
        if len(self._chunk) == self._capacity:
            self.next_chunk()
        self._chunk.append(token)
        if is_comma:
            self._after_comma = len(self._chunk)

    def add_embedding(self, vectors: Group) -> None:
        """Add an embedding's vectors, in a new chunk if they do not fit into this one."""
        if len(self._chunk) == self._capacity:
            self._wrap()
        if self._chunk and len(self._chunk) + len(vectors) > self._capacity:
            self.next_chunk()
        for vector in vectors:
            if len(self._chunk) == self._capacity:
                self.next_chunk()
            self._chunk.append(vector)

    def _wrap(self) -> None:
        """Begin the next chunk with what belongs together with the next token."""
        cut = self._after_comma
        if cut is None or len(self._chunk) - cut >= COMMA_BACKTRACK:
            cut = self._start_of_cut_word()
        if cut is not None:
            moved = self._chunk[cut:]
            del self._chunk[cut:]
            self.next_chunk()
            self._chunk = moved

    def _start_of_cut_word(self) -> int | None:
        """Return where the word begins that the chunk's end cuts; None if it cuts none."""
        if self._ends_word is None:
            return None
        start = len(self._chunk)
        while start:
            value = self._chunk[start - 1].value
            if not isinstance(value, int) or self._ends_word(value):
                break
            start -= 1
        return start if 0 < start < len(self._chunk) else None
