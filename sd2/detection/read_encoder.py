"""Reads the text encoder of a file into a state dict under canonical names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..config import TextEncoderConfig
from ..files.checkpoint import Checkpoint, open_checkpoint
from .detect import detect
from .detection import Detection
from .tensor_source import TensorSource, rename_keys

if TYPE_CHECKING:
    import torch


def read_encoder(
    source: str | os.PathLike[str] | Checkpoint,
    place: Callable[[torch.Tensor], torch.Tensor],
    config: TextEncoderConfig | None = None,
    report: Callable[[int, int], None] | None = None,
) -> tuple[Checkpoint, Detection, dict[str, torch.Tensor]]:
    """The text encoder of *source*, each tensor as *place* returns it (cast, copied, moved).

    Placeholder layers are left out. *report* is called with how many tensors were read, and of how
    many. Raises what ``detect`` raises.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    detection = detect(checkpoint, config)
    state_dict: dict[str, torch.Tensor] = {}
    for name, tensor in encoder_tensors(checkpoint, detection):
        state_dict[name] = place(tensor)
        if report is not None:
            report(len(state_dict), len(detection.sources))
    checkpoint.check_mapped()  # no mixture of two files
    return checkpoint, detection, state_dict


def encoder_tensors(
    checkpoint: Checkpoint, detection: Detection
) -> Iterator[tuple[str, torch.Tensor]]:
    """The encoder's tensors under canonical names, memory-mapped: read when they are touched.

    One source tensor at a time, so that its pages can be freed before the next one is read.
    """
    by_key: dict[str, dict[str, TensorSource]] = {}  # one key may be the source of three
    for name, source in detection.sources.items():
        by_key.setdefault(source.key, {})[name] = source
    for key, sources in by_key.items():
        yield from rename_keys(checkpoint.read([key]), sources).items()
