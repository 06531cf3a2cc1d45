"""Finds weights that are missing from a file of the right size: stretches of zeros.

An interrupted download may leave a file that has its full size, but holds zeros where data never
arrived. Shapes do not show it. Trained norms and matrices have no stretch of zeros, so a few
samples of each tensor are enough. Biases and the projection may rightly be zero.
"""

from __future__ import annotations

from math import prod

from ..files.checkpoint import Checkpoint
from .detection import Detection
from .state_dict_keys import LOGIT_SCALE, PROJECTION, TOKEN_EMBEDDING

_SAMPLE = 32
"""Elements of one sample."""
_SAMPLE_DISTANCE = 1 << 20
"""Elements between two samples of a large tensor, which has at least three."""
_ROWS = 4
"""A sample of zeros counts if so many rows around it are zero too: single rows may be pruned."""
_TABLE_ROWS = 128
"""The same for the token table, where weight decay may empty the rows of tokens never seen."""


def explain_empty_weights(checkpoint: Checkpoint, detection: Detection) -> str | None:
    """Sentence on the first tensor of the encoder with a stretch of zeros; None if there is none.

    *detection* is without placeholder layers, which may be zero.
    """
    rows = {
        source.key: _TABLE_ROWS if name == TOKEN_EMBEDDING else _ROWS
        for name, source in detection.sources.items()
        if name.endswith(".weight") and name not in (PROJECTION, LOGIT_SCALE)
    }
    for key, info in checkpoint.tensors.items():  # in the order of the file
        if key in rows and (what := _empty_part(checkpoint, key, info.shape, rows[key])):
            return (
                f"{key!r} {what}. The download is incomplete: the file has its full size, but not "
                "all of its contents"
            )
    return None


def _empty_part(checkpoint: Checkpoint, key: str, shape: tuple[int, ...], rows: int) -> str | None:
    """Which part of a tensor is zero, in words; None if no sample is."""
    size = prod(shape)
    if len(shape) == 1:
        return "is all zeros" if checkpoint.are_zeros(key, 0, size) else None
    intervals = max(2, size // _SAMPLE_DISTANCE)
    last = max(size - _SAMPLE, 0)
    stretch = min(rows * shape[-1], size)
    for number in range(intervals + 1):
        start = last * number // intervals
        if not checkpoint.are_zeros(key, start, _SAMPLE):
            continue
        start = min(max(start - stretch // 2, 0), size - stretch)
        if checkpoint.are_zeros(key, start, stretch):
            everything = all(
                checkpoint.are_zeros(key, last * other // intervals, _SAMPLE)
                for other in range(intervals + 1)
            )
            return "is all zeros" if everything else f"is zero around value {start:,} of {size:,}"
    return None
