"""Sizes of SD2's text encoder, under transformers' names, and the widths of other families.

What both the model and the tokens need of them has a name of its own here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import OptionError

CONFIG_FILE = Path(__file__).parent / "sd2_clip_config.json"

DEFAULT_LOGIT_SCALE = 4.6055
"""For a file without one. ComfyUI's default, so that both save the same CLIP; it is where training
ends, about ln(100). Training starts at ln(1 / 0.07) = 2.659, which fits no trained encoder."""

TEXT_ENCODER_WIDTHS = {
    512: "OpenAI's CLIP ViT-B",
    640: "OpenAI's CLIP RN50x4",
    768: "CLIP-L of SD 1.x, SDXL, SD3 and Flux",
    1024: "OpenCLIP ViT-H/14 of SD 2.x",
    1152: "SigLIP so400m",
    1280: "OpenCLIP bigG of SDXL",
}
"""Which text encoder has a hidden state, a token vector or a LoRA of this width."""

CONTEXT_WIDTHS = {
    768: "Stable Diffusion 1.x",
    1024: "Stable Diffusion 2.x",
    1280: "the SDXL refiner",
    2048: "SDXL",
    3584: "Qwen-Image (Qwen2.5-VL)",
    4096: "Flux, SD3 and others with T5-XXL",
}
"""Whose diffusion model attends to conditioning of this width."""


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of a CLIP text encoder."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    vocab_size: int
    projection_dim: int
    hidden_act: str
    layer_norm_eps: float
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int

    def __post_init__(self) -> None:
        if self.hidden_act != "gelu":
            # ViT-H/14 was trained with the exact GELU; 'quick_gelu' is OpenAI's CLIP-L.
            raise OptionError(f"hidden_act {self.hidden_act!r} is not SD2's. Expected 'gelu'.")
        if self.hidden_size % self.num_attention_heads:
            raise OptionError(
                f"hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}."
            )


def load_config(overlay: Mapping[str, Any] | None = None) -> TextEncoderConfig:
    """SD2's sizes; the values of *overlay* replace them (tiny models, for tests)."""
    values = json.loads(CONFIG_FILE.read_text(encoding="utf-8"))
    values.update(overlay or {})
    return TextEncoderConfig(
        **{field.name: values[field.name] for field in fields(TextEncoderConfig)}
    )


SD2_CONFIG = load_config()

CONTEXT_LENGTH = SD2_CONFIG.max_position_embeddings
"""Positions of a chunk: 77."""

START_TOKEN = SD2_CONFIG.bos_token_id
END_TOKEN = SD2_CONFIG.eos_token_id
PAD_TOKEN = SD2_CONFIG.pad_token_id
"""SD2 pads with 0, not with the end token: OpenCLIP's batches were filled up with zeros."""
