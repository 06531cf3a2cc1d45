"""Opens tensors that are in memory already, a state dict or a module, as a file would be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnreadableFileError, and_more
from .checkpoint import Checkpoint, TensorInfo
from .tensor_storage import DTYPE_NAMES

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoadedTensors(Checkpoint):
    """A checkpoint without a file: its tensors are those that were passed, not copies."""

    held: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        return {name: self.held[name] for name in names}

    def check_crcs(self, names: Iterable[str]) -> None:
        """Memory has no checksums."""

    def read_values(self, name: str, first: int = 0, count: int = 1 << 62) -> tuple[float, ...]:
        tensor = self._flat(name)
        if tensor is None:
            return ()
        return tuple(tensor[first : first + count].float().tolist())

    def are_zeros(self, name: str, first: int, count: int) -> bool:
        tensor = self._flat(name)
        return tensor is not None and not bool(tensor[first : first + count].any())

    def _flat(self, name: str) -> torch.Tensor | None:
        """The values of a float tensor in memory order; None as for files."""
        tensor = self.held.get(name)
        known = tensor is not None and self.tensors[name].dtype in ("F64", "F32", "F16", "BF16")
        if tensor is None or not known or not tensor.is_contiguous():
            return None
        return tensor.detach().view(-1)


def open_loaded(source: Mapping[Any, Any] | torch.nn.Module) -> LoadedTensors:
    """Opens a state dict, or a module such as a pipeline's ``text_encoder``.

    Values that are not tensors are left out. Raises UnreadableFileError if nothing is left, and for
    tensors without data, as accelerate leaves behind when it moves weights elsewhere.
    """
    import torch

    if isinstance(source, torch.nn.Module):
        what = f"{type(source).__name__} in memory"
        state_dict: Mapping[Any, Any] = source.state_dict()
    else:
        what = "a state dict in memory"
        state_dict = source
    held = {
        name: value
        for name, value in state_dict.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not held:
        raise UnreadableFileError(f"{what}: holds no tensors by name{_where(state_dict)}.")
    if empty := [name for name, tensor in held.items() if tensor.is_meta]:
        raise UnreadableFileError(
            f"{what}: {len(empty)} of {len(held)} tensors have no data ({and_more(empty, 2)} …): "
            "they are on the meta device. Load the model without offloading, and pass it then."
        )
    tensors = {
        name: TensorInfo(tuple(tensor.shape), _dtype_name(tensor)) for name, tensor in held.items()
    }
    return LoadedTensors(Path(what), (), tensors, held=held)


def _where(state_dict: Mapping[Any, Any]) -> str:
    """Say which value of *state_dict* has tensors, or else what there is instead."""
    for key, value in state_dict.items():
        if isinstance(value, Mapping) and any(hasattr(one, "shape") for one in value.values()):
            return f", but its {str(key)[:100]!r} does: pass that"
    kinds = sorted({type(value).__name__ for value in state_dict.values()})
    return f" (it holds {and_more(kinds, 3)})" if kinds else " (it is empty)"


def _dtype_name(tensor: torch.Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return DTYPE_NAMES.get(name, name)
