"""The sizes of the text encoder, as ``sd2_clip_config.json`` spells them: transformers' names.

What both the model and the tokens need of them has a name of its own here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import OptionError

CONFIG_FILE = Path(__file__).parent / "sd2_clip_config.json"


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
            raise OptionError(f"hidden_act {self.hidden_act!r} is not SD2's; expected 'gelu'.")
        if self.hidden_size % self.num_attention_heads:
            raise OptionError(
                f"hidden_size {self.hidden_size} is not divisible by "
                f"num_attention_heads {self.num_attention_heads}."
            )


def load_config(overlay: Mapping[str, Any] | None = None) -> TextEncoderConfig:
    """SD2's sizes, with the values of *overlay* laid over them (tiny models, for tests)."""
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
