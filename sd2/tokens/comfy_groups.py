"""Tokenizes weighted segments into groups, as ComfyUI does.

``embedding:name`` counts at the start of a segment and after a blank, in lower case. The name ends
at the next blank, or where another pack's syntax begins (``<lora:…>``, ``[a|b]``); what follows is
text. A name with a blank is quoted, ``embedding:"my style"``, which ComfyUI cannot read. A name
without a usable embedding is dropped and reported; the text around it stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..syntax.segments import Segment
from .embedding_tokens import EMBEDDING_PREFIX, EmbeddingTokens
from .textual_inversion import Unusable
from .tokenized_text import Token

_PIECE_STARTS = re.compile(rf"(?<=\s)(?={EMBEDDING_PREFIX})")
_QUOTED = re.compile(r'"([^"]+)"')
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
                rest = piece.removeprefix(EMBEDDING_PREFIX)
                if rest.strip():  # a lone "embedding:" names nothing: it is text
                    vectors, text = _embedding(rest, segment.weight, len(groups) + 1, embeddings)
                    if vectors:
                        groups.append(vectors)
            if text:
                word_id = len(groups) + 1
                groups.append([Token(i, segment.weight, word_id, "token") for i in encode(text)])
    return groups


def _embedding(
    rest: str, weight: float, word_id: int, embeddings: EmbeddingTokens
) -> tuple[list[Token], str]:
    """Return the vectors of the embedding that *rest* names, and the text after the name.

    There are no vectors if the embedding is ignored.
    """
    if quoted := _QUOTED.match(rest):
        name, following = quoted[1], " ".join(rest[quoted.end() :].split())
    else:
        name, *words = rest.split()
        following = " ".join(words)
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
