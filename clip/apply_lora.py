"""Applies the text encoder's part of a LoRA file to a CLIP handle."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from .. import host
from ..sd2.errors import NotFiniteError
from ..sd2.lora.lora_file import LoraError, read_lora

if TYPE_CHECKING:
    from ..host.interface import Clip


def apply_lora(clip: Clip, path: str | PathLike[str], strength: float = 1.0) -> tuple[Clip, str]:
    """Return a clone of *clip* with the LoRA applied, and what was applied and what was not.

    A LoRA without anything for the text encoder, and strength 0, return *clip* itself.
    """
    shapes = {name: tuple(t.shape) for name, t in clip.cond_stage_model.state_dict().items()}
    lora = read_lora(path, shapes)
    lora.check_strength(strength)
    refused: tuple[str, ...] = ()
    if lora.changes and strength != 0.0:
        clip = clip.clone()
        patches = host.current().lora_patches(lora.changes)
        try:
            applied = set(clip.add_patches(patches, strength))
        except NotFiniteError as error:
            raise LoraError(f"{lora.path}: {error}") from error
        refused = tuple(name for name in lora.changes if name not in applied)
    return clip, lora.describe(strength, refused)
