"""The node that applies the text encoder's part of a LoRA, without a MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import list_models, resolve_model
from ..sd2.errors import SD2ClipError

if TYPE_CHECKING:
    from ..host.interface import Clip

LORA_KINDS = ("loras",)


class LoadSD2CLIPLora:
    """Applies the text encoder's part of a LoRA."""

    TITLE = "Load SD2 LoRA (CLIP only)"
    CATEGORY = "SD2"
    DESCRIPTION = (
        "Applies a LoRA or DoRA to SD2's text encoder only, and says which of its tensors were "
        "used. For the UNet's part use Load LoRA."
    )
    SEARCH_ALIASES = ["lora", "dora", "load lora", "clip lora", "sd2"]
    RETURN_TYPES = ("CLIP", "STRING")
    RETURN_NAMES = ("CLIP", "info")
    OUTPUT_TOOLTIPS = (
        "The text encoder with the LoRA applied.",
        "What the file holds, what was applied and what was not, as text.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "SD2's text encoder, from any loader."}),
                "lora_name": (
                    list_models(host.current(), LORA_KINDS),
                    {"tooltip": "A LoRA for Stable Diffusion 2.x, from models/loras."},
                ),
            },
            "optional": {
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": -100.0,
                        "max": 100.0,
                        "step": 0.01,
                        "tooltip": "How much of the change is applied; 1 is as trained, 0 none.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None) -> bool | str:
        # An input named here is not checked by the host. So any path separators are accepted.
        try:
            if lora_name is not None:  # linked: known when the node runs
                resolve_model(host.current(), LORA_KINDS, lora_name)
        except SD2ClipError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None, **_: Any) -> Any:
        from ..sd2.lora.lora_file import lora_fingerprint

        if lora_name is None:
            return float("nan")
        return lora_fingerprint(resolve_model(host.current(), LORA_KINDS, lora_name))

    def load(self, clip: Clip, lora_name: str, strength: float = 1.0) -> dict[str, Any]:
        from ..clip.apply_lora import apply_lora

        path = resolve_model(host.current(), LORA_KINDS, lora_name)
        clip, info = apply_lora(clip, path, strength)
        _path, *fitted = info.splitlines()
        return {"ui": {"text": fitted}, "result": (clip, info)}
