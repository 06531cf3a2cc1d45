"""Canonical names and shapes of the text encoder's tensors, and OpenCLIP's names for them.

Canonical names are transformers': ``text_model.…``, ``text_projection.weight``, ``logit_scale``.
"""

import re
from collections.abc import Iterable

from ..config import TextEncoderConfig
from .tensor_source import QKVThird, TensorSource

TEXT_MODEL = "text_model."
PROJECTION = "text_projection.weight"
LOGIT_SCALE = "logit_scale"
TOKEN_EMBEDDING = "text_model.embeddings.token_embedding.weight"
POSITION_EMBEDDING = "text_model.embeddings.position_embedding.weight"
FINAL_NORM = "text_model.final_layer_norm"

_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_IN_PROJECTION = re.compile(r"self_attn\.([qkv])_proj")

_OPENCLIP = {
    TOKEN_EMBEDDING: "token_embedding.weight",
    POSITION_EMBEDDING: "positional_embedding",
    f"{FINAL_NORM}.weight": "ln_final.weight",
    f"{FINAL_NORM}.bias": "ln_final.bias",
}
_OPENCLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def layer_shapes(config: TextEncoderConfig, layer: int) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of one layer, counted from 0."""
    width, inner = config.hidden_size, config.intermediate_size
    parts = {
        "layer_norm1": (width,),
        "layer_norm2": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, width),
        "self_attn.v_proj": (width, width),
        "self_attn.out_proj": (width, width),
        "mlp.fc1": (inner, width),
        "mlp.fc2": (width, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for part, shape in parts.items():
        shapes[f"text_model.encoder.layers.{layer}.{part}.weight"] = shape
        shapes[f"text_model.encoder.layers.{layer}.{part}.bias"] = shape[:1]
    return shapes


def text_model_shapes(
    config: TextEncoderConfig, layers: Iterable[int]
) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of everything but the projection and the logit scale."""
    width = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        TOKEN_EMBEDDING: (config.vocab_size, width),
        POSITION_EMBEDDING: (config.max_position_embeddings, width),
    }
    for layer in layers:
        shapes.update(layer_shapes(config, layer))
    shapes[f"{FINAL_NORM}.weight"] = (width,)
    shapes[f"{FINAL_NORM}.bias"] = (width,)
    return shapes


def encoder_shapes(config: TextEncoderConfig) -> dict[str, tuple[int, ...]]:
    """Canonical names and shapes of the complete encoder."""
    return text_model_shapes(config, range(config.num_hidden_layers)) | {
        PROJECTION: (config.projection_dim, config.hidden_size),
        LOGIT_SCALE: (),
    }


def openclip_source(prefix: str, canonical: str) -> TensorSource:
    """Where OpenCLIP's names put a tensor; query, key and value share one stacked tensor."""
    match = _LAYER.fullmatch(canonical)
    if match is None:
        return TensorSource(prefix + _OPENCLIP[canonical])
    block = f"{prefix}transformer.resblocks.{match[1]}"
    if (part := _IN_PROJECTION.fullmatch(match[2])) is not None:
        return TensorSource(f"{block}.attn.in_proj_{match[3]}", QKVThird("qkv".index(part[1])))
    return TensorSource(f"{block}.{_OPENCLIP_LAYER[match[2]]}.{match[3]}")


def transformers_source(prefix: str, canonical: str) -> TensorSource:
    """Where transformers' names put a tensor; *prefix* ends in ``text_model.`` if the file's do."""
    return TensorSource(prefix + canonical.removeprefix(TEXT_MODEL))
