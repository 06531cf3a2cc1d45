"""Turns the embeddings that a text names into tokens, and records which are used or ignored."""

from __future__ import annotations

from collections.abc import Sequence

from .textual_inversion import Embedding, Unusable, embedding_names, load_embedding
from .tokenized_text import IgnoredEmbedding, Token, UsedEmbedding

EMBEDDING_PREFIX = "embedding:"


class EmbeddingTokens:
    """The embeddings of one text.

    Without *folders* there are none, and ``embedding:name`` is text. *width* is the text encoder's,
    *key* its name in files for several encoders.
    """

    def __init__(self, folders: Sequence[str] | None, width: int, key: str) -> None:
        self.enabled = folders is not None
        self.used: dict[str, UsedEmbedding] = {}
        self.ignored: dict[str, IgnoredEmbedding] = {}
        self.warnings: list[str] = []
        self._folders = folders or ()
        self._width = width
        self._key = key
        self._loaded: dict[str, Embedding | Unusable] = {}

    def names(self) -> list[str]:
        """List the names of all embeddings."""
        return embedding_names(self._folders)

    def load(self, name: str) -> Embedding | Unusable:
        if name not in self._loaded:
            self._loaded[name] = load_embedding(name, self._folders, self._width, self._key)
        return self._loaded[name]

    def use(self, name: str, embedding: Embedding, weight: float, word_id: int) -> list[Token]:
        """Return a token for each of the embedding's vectors."""
        rows = len(embedding.vectors)
        if name not in self.used:
            self.used[name] = UsedEmbedding(name, str(embedding.path), embedding.sha256, rows)
            if embedding.note:
                self.warnings.append(f"{EMBEDDING_PREFIX}{name}: {embedding.note}")
        label = f"{EMBEDDING_PREFIX}{name}"
        return [
            Token(vector, weight, word_id, "embedding", f"{label}[{number}/{rows}]")
            for number, vector in enumerate(embedding.vectors.unbind(), 1)
        ]

    def ignore(self, name: str, reason: str) -> None:
        """Record that *name* has no usable embedding."""
        self.ignored.setdefault(name, IgnoredEmbedding(name, reason))
