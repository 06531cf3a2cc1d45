"""The encoded captions of a fragment, as every output format gets them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ..sd2.tokens.chunks import MAX_TEXT_TOKENS
from .inputs.captions import Caption

if TYPE_CHECKING:
    import numpy as np
    import torch

LATENTS = "caption_latents"
POOLED = "caption_pooled"


@dataclass(frozen=True)
class EncodedRows:
    """Captions with their embeddings; captions with equal tokens share one."""

    captions: Sequence[Caption]
    token_counts: Sequence[int]
    """Of each caption, before cutting."""
    row_of: Sequence[int]
    """Of each caption, its row in ``chunks`` and ``tensors``."""
    chunks: Sequence[Sequence[int]]
    """Distinct chunks of 77 tokens."""
    tensors: dict[str, torch.Tensor]
    """``caption_latents`` (D, 77, W) and, if asked for, ``caption_pooled`` (D, W)."""

    @property
    def truncated(self) -> list[bool]:
        """Whether each caption was cut."""
        return [count > MAX_TEXT_TOKENS for count in self.token_counts]

    def array(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        """Return a tensor as a numpy array (D, …), sharing its memory."""
        return self.tensors[name].numpy()


_SURROGATES = re.compile("[\ud800-\udfff]")


def valid_text(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON can carry and UTF-8 cannot, as tokens do."""
    return _SURROGATES.sub("\ufffd", text)


@dataclass(frozen=True)
class OutputFile:
    """A file of a fragment: its name, and what writes it."""

    name: str
    write: Callable[[BinaryIO], None]
