"""Names the encoder's tensors as other programs do: the inverse of detection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import TextEncoderConfig
from .state_dict_keys import LOGIT_SCALE, PROJECTION, openclip_source, text_model_shapes
from .tensor_source import QKVThird

if TYPE_CHECKING:
    import torch

    StateDict = Mapping[str, torch.Tensor]

LAYOUTS = ("comfy", "diffusers", "openclip")
"""Comfy's are the canonical names, with every part that there is."""

VARIANTS = ("fp16", "bf16")
"""In the names of a diffusers folder's files: the dtype of the weights."""


def diffusers_tensors(state_dict: StateDict, config: TextEncoderConfig) -> dict[str, torch.Tensor]:
    """Select what a diffusers pipeline of SD2 has: no last layer, no projection.

    Its last layer is then the one that SD2 is conditioned on.
    """
    names = text_model_shapes(config, range(config.num_hidden_layers - 1))
    return {name: state_dict[name] for name in names}


def diffusers_config(config: TextEncoderConfig) -> dict[str, Any]:
    """Return the ``config.json`` of SD2's encoder in diffusers' pipelines.

    The token ids are those of every published SD2 pipeline, although the tokenizer has others:
    with an ``eos_token_id`` of 2 transformers takes the pooled vector at the largest id, which is
    the end token. There is no dtype: it is that of the weights, in every variant.
    """
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": config.hidden_act,
        "hidden_size": config.hidden_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.layer_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers - 1,
        "pad_token_id": 1,
        "projection_dim": 512,
        "vocab_size": config.vocab_size,
    }


def openclip_tensors(state_dict: StateDict) -> dict[str, torch.Tensor]:
    """Rename the tensors of a complete encoder to OpenCLIP's names, without a prefix.

    Query, key and value are stacked, and the projection is transposed: OpenCLIP's is x @ W.
    """
    import torch

    renamed: dict[str, torch.Tensor] = {}
    thirds: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in state_dict.items():
        if name == PROJECTION:
            renamed["text_projection"] = tensor.t()
        elif name == LOGIT_SCALE:
            renamed[LOGIT_SCALE] = tensor
        else:
            source = openclip_source("", name)
            if isinstance(source.transform, QKVThird):
                thirds.setdefault(source.key, {})[source.transform.qkv_index] = tensor
            else:
                renamed[source.key] = tensor
    for key, parts in thirds.items():
        renamed[key] = torch.cat([parts[index] for index in sorted(parts)])
    return renamed
