"""Finds where NaN or infinity in an encoding comes from. Only called when there is some."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def is_finite(*tensors: Tensor | None) -> bool:
    """Tell whether no tensor holds NaN or infinity; None holds none."""
    return all(tensor is None or _is_finite(tensor) for tensor in tensors)


def _is_finite(tensor: Tensor) -> bool:
    # The sum, which is read once, is finite only if all values are; it may also overflow.
    return math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())


@dataclass(frozen=True)
class NonFiniteWeight:
    """The first weight that holds NaN or infinity."""

    name: str
    """Canonical: ``text_model…``."""
    is_overflow: bool
    """Whether it is float16 without NaN: another dtype may hold its values."""


@dataclass(frozen=True)
class NonFiniteStates:
    """All weights are finite, but states computed with them are not."""

    layer: int | None
    """The first layer with such states, counted from 1; None: after the last layer."""
    dtype: torch.dtype
    """Of the stored weights."""


Origin = NonFiniteWeight | NonFiniteStates


def explain(origin: Origin, source: Any, patched: Collection[str] = ()) -> str:
    """Say in sentences where NaN or infinity comes from, and what to do.

    *source* is ``EncoderSetup.source``. *patched* are the names of weights that a LoRA or a merge
    changed; they may have a prefix.
    """
    text = "The encoding holds NaN or infinity, which makes black pictures: "
    if isinstance(origin, NonFiniteStates):
        return text + _explain_states(origin)
    broken = f"the weight {origin.name} holds NaN or infinity"
    if any(name.endswith(origin.name) for name in patched):
        return (
            f"{text}{broken} after a LoRA or a merge changed it. Remove these one by one to find "
            "the one that is damaged."
        )
    if source is None:
        return (
            f"{text}{broken}. Load the file with Load SD2 CLIP; if this message stays, the file is "
            "damaged: download it again."
        )
    found = source.detection.sources.get(origin.name)
    in_file = f" (in the file: {found.key})" if found and found.key != origin.name else ""
    if origin.is_overflow and source.detection.dtype != "F16":
        return (
            f"{text}{broken}{in_file}, as float16. Set dtype of Load SD2 CLIP to fp32; if this "
            f"message stays, {source.detection.path} is damaged: download it again."
        )
    return (
        f"{text}{source.detection.path} is damaged: {broken}{in_file}. Download the file again, or "
        "choose another one."
    )


def _explain_states(origin: NonFiniteStates) -> str:
    where = "after the last layer" if origin.layer is None else f"at layer {origin.layer}"
    dtype = str(origin.dtype).removeprefix("torch.")
    if origin.dtype == torch.float16:
        cure = "Set dtype of Load SD2 CLIP to bf16 or fp32."
    elif origin.dtype in (torch.float32, torch.float64):
        cure = "A textual inversion or the weights have values too large to compute with."
    else:
        cure = "Set dtype of Load SD2 CLIP to fp32."
    return f"all weights are finite, but with {dtype} weights it appears {where}. {cure}"


def find_nonfinite(transformer: nn.Module, encode: Callable[[], Any]) -> Origin | None:
    """Find the origin of NaN and infinity in what *encode* returns: a tuple of tensors.

    *transformer* is ``SDClipModel.transformer``, ours or ComfyUI's. None: *encode* gives finite
    values, so the origin is not the text encoder but what follows, such as token weights.
    """
    for name, weight in transformer.state_dict().items():
        if not weight.is_meta and not _is_finite_weight(weight):
            is_overflow = weight.dtype == torch.float16 and not bool(weight.isnan().any())
            return NonFiniteWeight(name, is_overflow)
    dtype = next(transformer.parameters()).dtype
    layers = transformer.get_submodule("text_model.encoder.layers")
    with _watched(layers) as nonfinite:
        results = encode()
    if nonfinite:
        return NonFiniteStates(min(nonfinite) + 1, dtype)
    return None if is_finite(*results) else NonFiniteStates(None, dtype)


def _is_finite_weight(weight: Tensor) -> bool:
    if not weight.is_floating_point():
        return True
    return is_finite(weight if weight.element_size() > 1 else weight.float())  # 8 bits cannot say


@contextmanager
def _watched(layers: nn.Module) -> Iterator[set[int]]:
    """Collect the numbers, from 0, of the layers whose outputs are not finite."""
    found: set[int] = set()

    def watch(number: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not is_finite(output):
                found.add(number)

        return hook

    handles = [
        layer.register_forward_hook(watch(number)) for number, layer in enumerate(layers.children())
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
