"""A1111's way from weighted segments to chunks.

Chunks are filled token by token; one that is full gives what follows its last comma to the next, if
that is no more than 20 tokens. An embedding needs no prefix: any run of tokens that spells the name
of a file is that embedding, the longest name first. It starts a new chunk if it does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..syntax.comfy import Segment
from .comfy_groups import EMBEDDING_PREFIX
from .textual_inversion import Embedding, Unusable, embedding_names, load_embedding
from .tokenized_text import IgnoredEmbedding, Token, UsedEmbedding

COMMA_BACKTRACK = 20
"""A1111's setting "Prompt word wrap length limit", as it comes."""

COMMA = 267
"""``,</w>``"""


@dataclass
class A1111Chunks:
    """The chunks of one text, without start, end and pads.

    *encode* turns text into ids; *ends_word* says of an id whether a word ends with it. With
    *keep_words* a chunk gives a word that it would cut to the next one, where no comma did.
    """

    encode: Callable[[str], list[int]]
    ends_word: Callable[[int], bool]
    folders: Sequence[str] | None
    width: int
    key: str
    capacity: int
    keep_words: bool = False

    chunks: list[list[Token]] = field(default_factory=list)
    used: dict[str, UsedEmbedding] = field(default_factory=dict)
    ignored: dict[str, IgnoredEmbedding] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _chunk: list[Token] = field(default_factory=list)
    _after_comma: int | None = None
    """Where in the chunk the text after its last comma begins."""
    _word: int = 0

    def fill(self, sections: Iterable[Sequence[Segment]]) -> list[list[Token]]:
        """All *sections*, each beginning a chunk: an empty one leaves an empty chunk, as there."""
        names = self._names()
        for index, section in enumerate(sections):
            if index:
                self._next_chunk()
            for segment in section:
                self._add(segment, names)
        if self._chunk or not self.chunks:
            self._next_chunk()
        return self.chunks

    def _names(self) -> Mapping[int, list[tuple[list[int], str]]]:
        """By the first id: what spells an embedding, longest first, and the embedding's name."""
        spellings: dict[int, list[tuple[list[int], str]]] = {}
        for name in embedding_names(self.folders or ()):
            for spelled in (name, EMBEDDING_PREFIX + name):
                if ids := self.encode(spelled):
                    spellings.setdefault(ids[0], []).append((ids, name))
        for same_start in spellings.values():
            same_start.sort(key=lambda spelling: len(spelling[0]), reverse=True)
        return spellings

    def _add(self, segment: Segment, names: Mapping[int, list[tuple[list[int], str]]]) -> None:
        ids = self.encode(segment.text)
        self._word += 1
        position = 0
        while position < len(ids):
            found = None
            for spelled, name in names.get(ids[position], ()):
                if ids[position : position + len(spelled)] == spelled:
                    found = self._load(name)
                    if found is not None:
                        self._add_embedding(name, found, segment.weight)
                        position += len(spelled)
                        break
            if found is None:
                self._add_token(ids[position], segment.weight)
                position += 1

    def _load(self, name: str) -> Embedding | None:
        found = load_embedding(name, self.folders or (), self.width, self.key)
        if isinstance(found, Embedding):
            return found
        # Most pictures beside embeddings are previews, and their names are words.
        if found.path is None or found.path.suffix.lower() != ".png":
            self.ignored.setdefault(name, IgnoredEmbedding(name, _left_as_text(found)))
        return None

    def _add_token(self, value: int, weight: float) -> None:
        if value != COMMA and len(self._chunk) == self.capacity:
            self._wrap()  # leaves a full chunk full only if there is nothing to keep together
        if len(self._chunk) == self.capacity:
            self._next_chunk()
        self._chunk.append(Token(value, weight, self._word, "token"))
        if value == COMMA:
            self._after_comma = len(self._chunk)

    def _wrap(self) -> None:
        """Begin the next chunk with what should not be torn off what comes now."""
        at = self._after_comma
        if at is None or len(self._chunk) - at >= COMMA_BACKTRACK:
            at = self._word_start() if self.keep_words else None
        if at is not None:
            torn = self._chunk[at:]
            del self._chunk[at:]
            self._next_chunk()
            self._chunk = torn

    def _word_start(self) -> int | None:
        """Where the word that the chunk's end cuts begins; None if it cuts none."""
        at = len(self._chunk)
        while at and self._continues(self._chunk[at - 1]):
            at -= 1
        return at if 0 < at < len(self._chunk) else None

    def _continues(self, token: Token) -> bool:
        return isinstance(token.value, int) and not self.ends_word(token.value)

    def _add_embedding(self, name: str, embedding: Embedding, weight: float) -> None:
        rows = len(embedding.vectors)
        if name not in self.used:
            self.used[name] = UsedEmbedding(name, str(embedding.path), embedding.sha256, rows)
            if embedding.note:
                self.warnings.append(f"{EMBEDDING_PREFIX}{name}: {embedding.note}")
        if len(self._chunk) == self.capacity:
            self._wrap()
        if self._chunk and len(self._chunk) + rows > self.capacity:
            self._next_chunk()
        self._word += 1
        for number, vector in enumerate(embedding.vectors.unbind(), 1):
            if len(self._chunk) == self.capacity:
                self._next_chunk()
            label = f"{EMBEDDING_PREFIX}{name}[{number}/{rows}]"
            self._chunk.append(Token(vector, weight, self._word, "embedding", label))
        self._word += 1

    def _next_chunk(self) -> None:
        self.chunks.append(self._chunk)
        self._chunk = []
        self._after_comma = None


def _left_as_text(unusable: Unusable) -> str:
    return f"{unusable.reason}; its name was left as text"
