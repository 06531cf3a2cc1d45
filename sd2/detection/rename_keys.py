"""From a file's names to canonical ones, and from a 23-layer encoder to a complete one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..config import TextEncoderConfig
from .detect import Detection
from .state_dict_keys import (
    FINAL_NORM,
    LOGIT_SCALE,
    PROJECTION,
    TOKEN_EMBEDDING,
    layer_shapes,
    third_of_in_projection,
)

LOGIT_SCALE_START = 2.6592600369327783
"""ln(1 / 0.07), with which CLIP begins its training."""


def convert(
    state_dict: Mapping[str, torch.Tensor], detection: Detection
) -> dict[str, torch.Tensor]:
    """The tensors of *detection* under canonical names; nothing else of *state_dict*.

    OpenCLIP's stacked query, key and value (3 * width, …) become views of it, and so does a token
    table with rows behind the vocabulary. A bare ``text_projection`` is OpenCLIP's parameter, used
    as x @ W, and is transposed.
    """
    converted = {}
    for name, source in detection.names.items():
        tensor = state_dict[source]
        third = third_of_in_projection(name) if detection.naming == "openclip" else None
        if third is not None:
            tensor = tensor.chunk(3)[third]
        elif name == PROJECTION and not source.endswith(".weight"):
            tensor = tensor.t().contiguous()
        elif name == LOGIT_SCALE:
            tensor = tensor.reshape(())
        elif name == TOKEN_EMBEDDING:
            tensor = tensor[: detection.tokens]
        converted[name] = tensor
    return converted


def complete(
    state_dict: Mapping[str, torch.Tensor], config: TextEncoderConfig
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """*state_dict* with stand-ins for the parts that SD2's conditioning does not need.

    The last layer becomes one that changes nothing (its two outputs, out_proj and fc2, are zero),
    the projection the identity. Returns the complete state dict and what was added to it, so that
    whoever shows a result that passes through these can say so.
    """
    completed = dict(state_dict)
    added = []
    like = state_dict[f"{FINAL_NORM}.weight"]
    last = layer_shapes(config, config.num_hidden_layers - 1)
    if not any(name in completed for name in last):
        for name, shape in last.items():
            norm_weight = name.endswith(("layer_norm1.weight", "layer_norm2.weight"))
            completed[name] = like.new_ones(shape) if norm_weight else like.new_zeros(shape)
        added.append(f"text_model.encoder.layers.{config.num_hidden_layers - 1}")
    if PROJECTION not in completed:
        shape = (config.projection_dim, config.hidden_size)
        completed[PROJECTION] = torch.eye(*shape, device=like.device).to(like.dtype)
        added.append(PROJECTION)
    if LOGIT_SCALE not in completed:
        completed[LOGIT_SCALE] = like.new_tensor(LOGIT_SCALE_START)
        added.append(LOGIT_SCALE)
    return completed, tuple(added)
