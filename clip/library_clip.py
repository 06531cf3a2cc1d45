"""The handle that the library returns outside ComfyUI: with what ``clip/`` does with a handle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..host.interface import Clip
from ..host.standalone_clip import StandaloneClip


class LibraryClip(StandaloneClip):
    """A ``StandaloneClip`` whose ``encode`` takes all options, and with ``prompt_embeds``."""

    def encode(self, text: str, **options: Any) -> torch.Tensor:
        """Encode text to *cond*, (1, T, 1024); *options* are the fields of ``EncodeOptions``."""
        if not options:
            return super().encode(text)
        from .prompt_embeds import single_cond  # here and below: loading a file needs none of it

        return single_cond(self, text, **options)

    def prompt_embeds(
        self,
        prompts: str | Sequence[str],
        negatives: str | Sequence[str] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Any:
        """Encode prompts for a diffusers pipeline; see the function ``prompt_embeds``."""
        from .prompt_embeds import prompt_embeds

        return prompt_embeds(self, prompts, negatives, device=device, dtype=dtype, **options)


def library_clip(clip: Clip) -> Clip:
    """Return a new handle of the standalone host as a ``LibraryClip``; another host's unchanged."""
    if not isinstance(clip, StandaloneClip):
        return clip
    return LibraryClip(clip.cond_stage_model, clip.tokenizer)
