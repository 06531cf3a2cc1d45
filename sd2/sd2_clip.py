"""The text encoder of Stable Diffusion 2.x under ComfyUI's class names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .config import DEFAULT_LOGIT_SCALE, load_config
from .errors import OptionError
from .model.sd_clip import SD1ClipModel, SDClipModel

ARCH = "ViT-H-14"


class SD2ClipHModel(SDClipModel):
    """OpenCLIP ViT-H/14's text tower. The default layer is the penultimate, as SD2 was trained."""

    LAYERS = ("last", "penultimate", "hidden", "all")

    def __init__(
        self,
        arch: str = ARCH,
        device: torch.device | str | None = "cpu",
        max_length: int = 77,
        freeze: bool = True,
        layer: str = "penultimate",
        layer_idx: int | None = None,
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        if arch != ARCH:
            raise OptionError(f"arch {arch!r} is not SD2's text encoder. Use {ARCH!r}.")
        if layer == "penultimate" and layer_idx is None:
            layer, layer_idx = "hidden", -2
        options = model_options or {}
        super().__init__(
            load_config(options.get("clip_h_model_config")),
            device=device,
            max_length=max_length,
            freeze=freeze,
            layer=layer,
            layer_idx=layer_idx,
            dtype=dtype,
            model_options=options,
        )


class SD2ClipModel(SD1ClipModel):
    """Holds an ``SD2ClipHModel`` as ``clip_h``; encodes ``{"h": chunks}``."""

    clip_h: SD2ClipHModel

    def __init__(
        self,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            device=device,
            dtype=dtype,
            model_options=model_options,
            clip_name="h",
            clip_model=SD2ClipHModel,
            **kwargs,
        )


def build_text_encoder(
    state_dict: Mapping[str, Tensor],
    *,
    device: torch.device | str | None = "cpu",
    dtype: torch.dtype | None = None,
    model_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> SD2ClipModel:
    """Build the text encoder that holds *state_dict* (canonical names), on *device*.

    The model is built on the meta device and uses the tensors themselves: nothing is initialised,
    and a tensor is copied only to another dtype or device (*dtype* None: its own). Every missing,
    unexpected or misshapen tensor is an error.
    """
    model = SD2ClipModel(device="meta", dtype=dtype, model_options=model_options, **kwargs)
    tensors = {name: tensor.to(device=device, dtype=dtype) for name, tensor in state_dict.items()}
    logit_scale = tensors.pop("logit_scale", None)
    missing, unexpected = model.load_sd(tensors)
    if missing or unexpected:
        raise OptionError(
            f"The state dict does not fit the text encoder: missing {missing}, "
            f"unexpected {unexpected}."
        )
    inner = model.clip_h
    if logit_scale is None:
        logit_scale = torch.tensor(DEFAULT_LOGIT_SCALE, device=device)
    inner.logit_scale = torch.nn.Parameter(
        logit_scale.to(torch.float32), requires_grad=inner.logit_scale.requires_grad
    )
    return model
