"""Tokenizes weighted segments into groups, as ComfyUI does.

``embedding:name`` counts at the start of a segment and after a blank, in lower case. The name ends
at the next blank, or where another pack's syntax begins (``<lora:…>``, ``[a|b]``); what follows is
text. A name without a usable embedding is dropped and reported; the text around it stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..syntax.segments import Segment
from .embedding_tokens import EMBEDDING_PREFIX, EmbeddingTokens
from .textual_inversion import Unusable
from .tokenized_text import Token

_PIECE_STARTS = re.compile(rf"(?<=\s)(?={EMBEDDING_PREFIX})")
_OTHER_SYNTAX = re.compile(r"[<\[]")


def comfy_groups(
    segments: Iterable[Segment], encode: Callable[[str], list[int]], embeddings: EmbeddingTokens
) -> list[list[Token]]:
    """Return the groups of *segments* in order; *encode* turns text into ids."""
    groups: list[list[Token]] = []
    for segment in segments:
        for piece in _PIECE_STARTS.split(segment.text):
            text = piece
            if piece.startswith(EMBEDDING_PREFIX) and embeddings.enabled:
                words = piece.removeprefix(EMBEDDING_PREFIX).split()
                if words:  # a lone "embedding:" names nothing: it is text
                    vectors, text = _embedding(
                        words[0], " ".join(words[1:]), segment.weight, len(groups) + 1, embeddings
                    )
                    if vectors:
                        groups.append(vectors)
            if text:
                word_id = len(groups) + 1
                groups.append([Token(i, segment.weight, word_id, "token") for i in encode(text)])
    return groups


def _embedding(
    name: str, following: str, weight: float, word_id: int, embeddings: EmbeddingTokens
) -> tuple[list[Token], str]:
    """Return the vectors of the embedding *name*, none if it is ignored, and the text after it."""
    if other := _OTHER_SYNTAX.search(name):
        following = " ".join(filter(None, (name[other.start() :], following)))
        name = name[: other.start()]
    found = embeddings.load(name)
    bare = name.strip(",")
    if isinstance(found, Unusable) and bare != name:
        # As long as what was cut off, as in ComfyUI: after ",name" its last letter is left.
        following = f"{name[len(bare) :]} {following}"
        name = bare or name
        found = embeddings.load(name)
    if isinstance(found, Unusable):
        embeddings.ignore(name, found.reason)
        return [], following
    return embeddings.use(name, found, weight, word_id), following
