"""Finds CLIP towers, of text and of pictures, by the names and shapes of tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..files.checkpoint import TensorInfo

Naming = Literal["openclip", "transformers"]

_BLOCKS: dict[Naming, str] = {
    "openclip": "transformer.resblocks.",
    "transformers": "encoder.layers.",
}
_FIRST_NORM: dict[Naming, str] = {"openclip": "ln_1.weight", "transformers": "layer_norm1.weight"}
TOKEN_EMBEDDINGS: dict[Naming, str] = {
    "openclip": "token_embedding.weight",
    "transformers": "embeddings.token_embedding.weight",
}
POSITIONS: dict[Naming, str] = {
    "openclip": "positional_embedding",
    "transformers": "embeddings.position_embedding.weight",
}


@dataclass(frozen=True)
class Tower:
    """A tower as the names and shapes tell it. Sizes are None where nothing tells them."""

    naming: Naming
    prefix: str
    """Everything before the block names, "…text_model." included."""
    blocks: int
    """One more than the highest block number; 0 for an embedding without blocks."""
    width: int | None
    vocabulary: int | None
    positions: int | None
    sees: bool
    """A vision tower."""


def find_towers(tensors: Mapping[str, TensorInfo]) -> tuple[Tower, ...]:
    """All towers, in the order of the file."""
    found: dict[tuple[Naming, str], int] = {}
    for name in tensors:
        if (place := _block(name)) is not None:
            naming, prefix, number = place
            found[naming, prefix] = max(found.get((naming, prefix), 0), number + 1)
        elif name.endswith("token_embedding.weight"):
            naming = (
                "transformers" if name.endswith(TOKEN_EMBEDDINGS["transformers"]) else "openclip"
            )
            found.setdefault((naming, name.removesuffix(TOKEN_EMBEDDINGS[naming])), 0)
    towers = (_tower(tensors, *key, blocks) for key, blocks in found.items())
    return tuple(tower for tower in towers if tower is not None)


def _block(name: str) -> tuple[Naming, str, int] | None:
    """Naming, prefix and number of the block that *name* belongs to."""
    for naming, fragment in _BLOCKS.items():
        start = name.find(fragment)
        if start >= 0 and (start == 0 or name[start - 1] == "."):
            number = name[start + len(fragment) :].partition(".")[0]
            if number.isascii() and number.isdigit() and len(number) <= 3:
                return naming, name[:start], int(number)
    return None


def _tower(
    tensors: Mapping[str, TensorInfo], naming: Naming, prefix: str, blocks: int
) -> Tower | None:
    def shape(suffix: str, dimensions: int) -> tuple[int, ...] | None:
        info = tensors.get(prefix + suffix)
        return info.shape if info is not None and len(info.shape) == dimensions else None

    embedding = shape(TOKEN_EMBEDDINGS[naming], 2)
    positions = shape(POSITIONS[naming], 2)
    norms = (
        shape(f"{_BLOCKS[naming]}{number}.{_FIRST_NORM[naming]}", 1) for number in range(blocks)
    )
    norm = next((found for found in norms if found is not None), None)
    if norm is None and embedding is None:
        return None  # blocks of another kind of model
    classes = (f"{prefix}class_embedding", f"{prefix}embeddings.class_embedding")
    return Tower(
        naming,
        prefix,
        blocks,
        width=embedding[1] if embedding else norm[0] if norm else None,
        vocabulary=embedding[0] if embedding else None,
        positions=positions[0] if positions else None,
        sees=embedding is None
        and (prefix.endswith(("visual.", "vision_model.")) or any(c in tensors for c in classes)),
    )
