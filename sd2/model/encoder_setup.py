"""Facts that the text encoder cannot know by itself: about its file and about its host."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    # Not imported at run time: it refers to private names of torch, and ComfyUI needs no cache.
    from .encode_cache import EncodeCache

SETUP_KEY = "encoder_setup"
"""In ``model_options``: the ``EncoderSetup`` of the encoder to build."""


CPU = torch.device("cpu")

CPU_BATCH = 32
GPU_BATCH = 128
"""Chunks of a forward pass on a GPU: 0.4 GB of activations in fp16 at SD2's width. An H100 computes
32 in less time than their kernels take to launch, and 512 at hardly a higher rate than 128."""


@dataclass(frozen=True)
class EncoderSetup:
    """Facts about the weights and the host, handed over when the encoder is built."""

    placeholder_layers: frozenset[int] = frozenset()
    """Layers that the file lacks, counted from 0: their blocks pass their input on unchanged."""
    placeholder_projection: bool = False
    """Whether the file lacks the text projection: it is an identity matrix."""
    compute_dtype: torch.dtype = torch.float32
    """Dtype of activations. A host may lower it on a device that computes faster so."""
    product_dtype: torch.dtype = torch.float32
    """Dtype of the operands of matrix products on the CPU, with our own layer classes."""
    weights_dtype: torch.dtype | None = None
    """Dtype that all weights have for users; stored weights may be narrower. None: as stored."""
    output_device: torch.device | None = CPU
    """Where ``encode_token_weights`` leaves its result; None: where it was computed."""
    cache: EncodeCache | None = None
    """Cache of recent results; used on the CPU in float32 only."""
    check_files: Callable[[], None] | None = None
    """Raises an error if the weights are mapped from a file that was overwritten."""
    max_batch: int = CPU_BATCH
    """Chunks of a forward pass: limits the memory that a long prompt or many captions need."""
    source: Any = None
    """Where the weights came from, for the code that built the encoder; None if they changed."""

    def __deepcopy__(self, memo: dict[int, Any]) -> EncoderSetup:
        """Copy for a copied encoder: all facts hold for it too, but its cache is its own."""
        return replace(self, cache=copy.deepcopy(self.cache, memo))

    def pooled_limits(self, num_layers: int, *, projected: bool = True) -> str:
        """Say how pooled vectors differ from those of a complete file; "" if they do not."""
        effects, absent = [], []
        if num_layers - 1 in self.placeholder_layers:
            effects.append(f"comes from layer {num_layers - len(self.placeholder_layers)}")
            absent.append(f"layer {num_layers}")
        if self.placeholder_projection and projected:
            effects.append("is not projected")
            absent.append("text projection")
        if not effects:
            return ""
        return (
            f"the pooled vector {' and '.join(effects)}: the file has no {' and no '.join(absent)}"
        )
