"""Weighted segments to groups of tokens, with textual inversions in their places.

``embedding:name`` counts at the start of a segment and after a blank, in lower case. The name ends
at the next blank, or where another pack's syntax begins (``<lora:…>``, ``[a|b]``); what follows is
text. A name that nothing can be done with is dropped and reported, the text around it stays.
"""

import re
from collections.abc import Callable, Sequence

from ..syntax.comfy import Segment
from .textual_inversion import Embedding, Unusable, load_embedding
from .tokenized_text import IgnoredEmbedding, Token, UsedEmbedding

EMBEDDING_PREFIX = "embedding:"

_PIECE_STARTS = re.compile(rf"(?<=\s)(?={EMBEDDING_PREFIX})")
_OTHER_SYNTAX = re.compile(r"[<\[]")


class TokenGroups:
    """The groups of one text, in order; a token's ``word`` is its group's number.

    *encode* turns text into ids; without *folders* there are no embeddings, and their names are
    text like any other.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        folders: Sequence[str] | None,
        width: int,
        key: str,
    ) -> None:
        self.groups: list[list[Token]] = []
        self.used: dict[str, UsedEmbedding] = {}
        self.ignored: dict[str, IgnoredEmbedding] = {}
        self.warnings: list[str] = []
        self._encode = encode
        self._folders = folders
        self._width = width
        self._key = key
        self._found: dict[str, Embedding | Unusable] = {}

    def add(self, segment: Segment) -> None:
        for piece in _PIECE_STARTS.split(segment.text):
            text = piece
            if piece.startswith(EMBEDDING_PREFIX) and self._folders is not None:
                words = piece.removeprefix(EMBEDDING_PREFIX).split()
                if words:  # a lone "embedding:" names nothing: it is text
                    text = self._add_embedding(words[0], " ".join(words[1:]), segment.weight)
            if text:
                word = len(self.groups) + 1
                ids = self._encode(text)
                self.groups.append([Token(i, segment.weight, word, "token") for i in ids])

    def _add_embedding(self, name: str, following: str, weight: float) -> str:
        """Adds the embedding's vectors, if there is one; returns the text that is left."""
        if other := _OTHER_SYNTAX.search(name):
            following = " ".join(filter(None, (name[other.start() :], following)))
            name = name[: other.start()]
        found = self._load(name)
        bare = name.strip(",")
        if isinstance(found, Unusable) and bare != name:
            # As long as what was cut off, as in ComfyUI: after ",name" its last letter is left.
            following = f"{name[len(bare) :]} {following}"
            name = bare or name
            found = self._load(name)
        if isinstance(found, Unusable):
            self._ignore(name, found)
        else:
            self._use(name, found, weight)
        return following

    def _load(self, name: str) -> Embedding | Unusable:
        if name not in self._found:
            folders = self._folders or ()
            self._found[name] = load_embedding(name, folders, self._width, self._key)
        return self._found[name]

    def _use(self, name: str, embedding: Embedding, weight: float) -> None:
        rows = len(embedding.vectors)
        if name not in self.used:
            self.used[name] = UsedEmbedding(name, str(embedding.path), embedding.sha256, rows)
            if embedding.note:
                self.warnings.append(f"{EMBEDDING_PREFIX}{name}: {embedding.note}")
        word = len(self.groups) + 1
        label = f"{EMBEDDING_PREFIX}{name}"
        self.groups.append(
            [
                Token(vector, weight, word, "embedding", f"{label}[{number}/{rows}]")
                for number, vector in enumerate(embedding.vectors.unbind(), 1)
            ]
        )

    def _ignore(self, name: str, why: Unusable) -> None:
        self.ignored.setdefault(name, IgnoredEmbedding(name, why.reason))
