"""Finds text and vision towers of CLIP models by the names and shapes of tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..files.checkpoint import TensorInfo

KeyStyle = Literal["openclip", "transformers"]
"""Whose names the tensors of a tower have."""

_BLOCKS: dict[KeyStyle, str] = {
    "openclip": "transformer.resblocks.",
    "transformers": "encoder.layers.",
}
_FIRST_NORM: dict[KeyStyle, str] = {"openclip": "ln_1.weight", "transformers": "layer_norm1.weight"}
TOKEN_EMBEDDINGS: dict[KeyStyle, str] = {
    "openclip": "token_embedding.weight",
    "transformers": "embeddings.token_embedding.weight",
}
POSITIONS: dict[KeyStyle, str] = {
    "openclip": "positional_embedding",
    "transformers": "embeddings.position_embedding.weight",
}


@dataclass(frozen=True)
class Tower:
    """A tower, as far as names and shapes describe it. An unknown size is None."""

    key_style: KeyStyle
    prefix: str
    """What precedes the names of its blocks, "…text_model." included."""
    blocks: int
    """One more than the highest block number; 0 for an embedding without blocks."""
    width: int | None
    vocabulary: int | None
    positions: int | None
    is_vision: bool


def find_towers(tensors: Mapping[str, TensorInfo]) -> tuple[Tower, ...]:
    """All towers, in the order of the file."""
    found: dict[tuple[KeyStyle, str], int] = {}
    for name in tensors:
        if (block := _block(name)) is not None:
            key_style, prefix, number = block
            found[key_style, prefix] = max(found.get((key_style, prefix), 0), number + 1)
        elif name.endswith("token_embedding.weight"):
            key_style = (
                "transformers" if name.endswith(TOKEN_EMBEDDINGS["transformers"]) else "openclip"
            )
            found.setdefault((key_style, name.removesuffix(TOKEN_EMBEDDINGS[key_style])), 0)
    towers = (_tower(tensors, *key, blocks) for key, blocks in found.items())
    return tuple(tower for tower in towers if tower is not None)


def _block(name: str) -> tuple[KeyStyle, str, int] | None:
    """Key style, prefix and number of the block that *name* belongs to."""
    for key_style, fragment in _BLOCKS.items():
        start = name.find(fragment)
        if start >= 0 and (start == 0 or name[start - 1] == "."):
            number = name[start + len(fragment) :].partition(".")[0]
            if number.isascii() and number.isdigit() and len(number) <= 3:
                return key_style, name[:start], int(number)
    return None


def _tower(
    tensors: Mapping[str, TensorInfo], key_style: KeyStyle, prefix: str, blocks: int
) -> Tower | None:
    def shape(suffix: str, dimensions: int) -> tuple[int, ...] | None:
        info = tensors.get(prefix + suffix)
        return info.shape if info is not None and len(info.shape) == dimensions else None

    embedding = shape(TOKEN_EMBEDDINGS[key_style], 2)
    positions = shape(POSITIONS[key_style], 2)
    norms = (
        shape(f"{_BLOCKS[key_style]}{number}.{_FIRST_NORM[key_style]}", 1)
        for number in range(blocks)
    )
    norm = next((found for found in norms if found is not None), None)
    if norm is None and embedding is None:
        return None  # blocks of another kind of model
    classes = (f"{prefix}class_embedding", f"{prefix}embeddings.class_embedding")
    return Tower(
        key_style,
        prefix,
        blocks,
        width=embedding[1] if embedding else norm[0] if norm else None,
        vocabulary=embedding[0] if embedding else None,
        positions=positions[0] if positions else None,
        is_vision=embedding is None
        and (prefix.endswith(("visual.", "vision_model.")) or any(c in tensors for c in classes)),
    )
