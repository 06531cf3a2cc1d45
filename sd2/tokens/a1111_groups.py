"""Tokenizes weighted segments into groups, as A1111 does.

An embedding needs no prefix: any run of tokens that spells the name of a file is that embedding,
the longest name first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..syntax.segments import Section, Segment
from .embedding_tokens import EMBEDDING_PREFIX, EmbeddingTokens
from .textual_inversion import Embedding
from .tokenized_text import Token

_Spellings = Mapping[int, list[tuple[list[int], str]]]
"""By the first id: the ids that spell an embedding, longest first, and the embedding's name."""


def a1111_groups(
    sections: Iterable[Section], encode: Callable[[str], list[int]], embeddings: EmbeddingTokens
) -> list[list[list[Token]]]:
    """Return the groups of each section in order; *encode* turns text into ids."""
    spellings = _spellings(encode, embeddings)
    found: list[list[list[Token]]] = []
    word_ids = 0
    for section in sections:
        groups: list[list[Token]] = []
        for segment in section:
            of_segment = _groups(segment, word_ids, encode, embeddings, spellings)
            word_ids += len(of_segment)
            groups += of_segment
        found.append(groups)
    return found


def _spellings(encode: Callable[[str], list[int]], embeddings: EmbeddingTokens) -> _Spellings:
    spellings: dict[int, list[tuple[list[int], str]]] = {}
    for name in embeddings.names():
        # Completion quotes a name with a blank, because ComfyUI's syntax needs that.
        for spelled in (name, EMBEDDING_PREFIX + name, f'{EMBEDDING_PREFIX}"{name}"'):
            if ids := encode(spelled):
                spellings.setdefault(ids[0], []).append((ids, name))
    for same_start in spellings.values():
        same_start.sort(key=lambda spelling: len(spelling[0]), reverse=True)
    return spellings


def _groups(
    segment: Segment,
    word_ids: int,
    encode: Callable[[str], list[int]],
    embeddings: EmbeddingTokens,
    spellings: _Spellings,
) -> list[list[Token]]:
    """Return the groups of *segment*; *word_ids* are taken by groups before it."""
    ids = encode(segment.text)
    groups: list[list[Token]] = []
    text: list[Token] = []
    position = 0

    def flush() -> None:
        nonlocal text
        if text:
            groups.append(text)
            text = []

    while position < len(ids):
        for spelled, name in spellings.get(ids[position], ()):
            if ids[position : position + len(spelled)] != spelled:
                continue
            embedding = _load(name, embeddings)
            if embedding is not None:
                flush()
                word_id = word_ids + len(groups) + 1
                groups.append(embeddings.use(name, embedding, segment.weight, word_id))
                position += len(spelled)
                break
        else:
            word_id = word_ids + len(groups) + 1
            text.append(Token(ids[position], segment.weight, word_id, "token"))
            position += 1
    flush()
    return groups


def _load(name: str, embeddings: EmbeddingTokens) -> Embedding | None:
    found = embeddings.load(name)
    if isinstance(found, Embedding):
        return found
    # Most pictures in the folder are previews, and their names are ordinary words.
    if found.path is None or found.path.suffix.lower() != ".png":
        embeddings.ignore(name, f"{found.reason}; its name stays text")
    return None
