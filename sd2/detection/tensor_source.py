"""Maps each canonical tensor to the tensor of a file that holds it, and converts it.

Imports no torch: a transform calls methods of the tensor it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]


class Transform(Protocol):
    """Converts a tensor of a file to the canonical one."""

    def source_shapes(self, canonical: Shape) -> tuple[Shape, ...]:
        """Shapes that convert to shape *canonical*, the usual one first."""

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The canonical tensor; a view of *tensor* where that is possible."""


@dataclass(frozen=True)
class Unchanged:
    """The file holds the canonical tensor."""

    def source_shapes(self, canonical: Shape) -> tuple[Shape, ...]:
        return (canonical,)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


@dataclass(frozen=True)
class QKVThird:
    """One third of OpenCLIP's stacked query, key and value, (3 * width, …)."""

    qkv_index: int
    """0 query, 1 key, 2 value."""

    def source_shapes(self, canonical: Shape) -> tuple[Shape, ...]:
        return ((3 * canonical[0], *canonical[1:]),)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.chunk(3)[self.qkv_index]


@dataclass(frozen=True)
class Transposed:
    """OpenCLIP's ``text_projection`` is a parameter, used as x @ W, not a Linear's weight."""

    def source_shapes(self, canonical: Shape) -> tuple[Shape, ...]:
        return (canonical[::-1],)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.t().contiguous()


@dataclass(frozen=True)
class Scalar:
    """``logit_scale`` is stored without dimensions or as one element."""

    def source_shapes(self, canonical: Shape) -> tuple[Shape, ...]:
        return (canonical, (1,))

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.reshape(())


@dataclass(frozen=True)
class FirstRows:
    """A token table to which training has added rows behind the vocabulary."""

    added: int
    """Rows that are not read."""

    def source_shapes(self, canonical: Shape) -> tuple[Shape, ...]:
        return ((canonical[0] + self.added, *canonical[1:]),)

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[: len(tensor) - self.added]


@dataclass(frozen=True)
class TensorSource:
    """Where a canonical tensor comes from. Query, key and value may share one ``key``."""

    key: str
    """Name of the tensor in the file."""
    transform: Transform = Unchanged()


def rename_keys(
    state_dict: Mapping[str, torch.Tensor], sources: Mapping[str, TensorSource]
) -> dict[str, torch.Tensor]:
    """The tensors of *sources* under their canonical names; nothing else of *state_dict*."""
    return {name: source.transform(state_dict[source.key]) for name, source in sources.items()}
