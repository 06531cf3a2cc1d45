"""Recognises placeholder layers, which shapes cannot reveal, and adds them where a host needs them.

Three programs write a last layer that SD2 does not need and nobody trained: kohya's tools copy the
layer before it and fill the projection with ones; ComfyUI's CLIPSave writes uninitialised memory
when the file it loaded had 23 layers; this package adds a layer that changes nothing. A few
kilobytes of weights are enough to recognise each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING

from ..config import DEFAULT_LOGIT_SCALE, TextEncoderConfig
from ..files.checkpoint import Checkpoint
from .detection import Detection
from .state_dict_keys import FINAL_NORM, LOGIT_SCALE, PROJECTION, layer_shapes

if TYPE_CHECKING:
    import torch

_SLICE = 1024  # elements read of each large tensor
_SMALL = ("layer_norm1.weight", "layer_norm1.bias", "layer_norm2.weight", "layer_norm2.bias",
          "self_attn.out_proj.bias", "mlp.fc1.bias", "mlp.fc2.bias",
          "self_attn.q_proj.weight", "self_attn.out_proj.weight", "mlp.fc1.weight",
          "mlp.fc2.weight")  # fmt: skip
_IDENTITY = ("self_attn.out_proj.bias", "self_attn.out_proj.weight", "mlp.fc2.bias",
             "mlp.fc2.weight")  # fmt: skip


@dataclass(frozen=True)
class _Findings:
    layer: str | None
    """Why the last layer is a placeholder; None if it looks trained."""
    projection: str | None
    scale: str | None
    other: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        reasons = (self.layer, self.projection, self.scale, *self.other)
        return tuple(reason for reason in reasons if reason is not None)


def drop_placeholder_weights(checkpoint: Checkpoint, detection: Detection) -> Detection:
    """*detection* without its placeholder parts; a dummy layer 24 leaves 23 layers.

    The reasons are added to ``warnings``.
    """
    findings = _findings(checkpoint, detection)
    sources, missing = dict(detection.sources), list(detection.missing)
    if findings.layer is not None:
        layer = _layer(detection.num_layers - 1)
        sources = {name: one for name, one in sources.items() if not name.startswith(layer)}
        missing.insert(0, layer.removesuffix("."))
    for part, reason in ((PROJECTION, findings.projection), (LOGIT_SCALE, findings.scale)):
        if reason is not None:
            del sources[part]
            missing.append(part)
    return replace(
        detection,
        sources=sources,
        missing=tuple(missing),
        num_layers=detection.num_layers - (findings.layer is not None),
        has_projection=PROJECTION in sources,
        warnings=(*detection.warnings, *findings.sentences),
    )


def _findings(checkpoint: Checkpoint, detection: Detection) -> _Findings:
    last = detection.num_layers - 1
    layer = None
    if detection.num_layers == detection.model_layers:
        layer = _judge_layer(checkpoint, detection, last)
    final = _read(checkpoint, detection, [f"{FINAL_NORM}.weight", f"{FINAL_NORM}.bias"])
    spoiled = [f"The final layer norm is {why}." for why in _spoiled(final)]
    scale = _read(checkpoint, detection, [LOGIT_SCALE])
    return _Findings(
        layer,
        _judge_projection(checkpoint, detection),
        f"logit_scale is {scale[0]}." if scale and not isfinite(scale[0]) else None,
        tuple(spoiled),
    )


def _judge_layer(checkpoint: Checkpoint, detection: Detection, last: int) -> str | None:
    start = f"Layer {last + 1} is a placeholder: "
    end = " It is not used."
    values = _read(checkpoint, detection, [_layer(last) + part for part in _SMALL])
    norms = _read(checkpoint, detection, [_layer(last) + f"layer_norm{n}.weight" for n in (1, 2)])
    if not values:
        return None
    if norms and not any(norms):
        return f"{start}its layer norms are all zero (uninitialised memory, saved).{end}"
    for why in _spoiled(values):
        return f"{start}it is {why} (uninitialised memory, saved).{end}"
    if not any(_read(checkpoint, detection, [_layer(last) + part for part in _IDENTITY])):
        return f"{start}it changes nothing (added to a 23-layer encoder).{end}"
    before = _read(checkpoint, detection, [_layer(last - 1) + part for part in _SMALL])
    if values == before:
        return f"{start}it is a copy of layer {last} (kohya's dummy).{end}"
    return None


def _judge_projection(checkpoint: Checkpoint, detection: Detection) -> str | None:
    source, width = detection.sources.get(PROJECTION), detection.width
    if source is None:
        return None
    rows = checkpoint.read_values(source.key, 0, 2 * width)
    middle = checkpoint.read_values(source.key, width * (width // 2), width)
    if not rows or not middle:
        return None
    start, end = "The projection is a placeholder: ", " Pooled output has no projection."
    for why in _spoiled((*rows, *middle)):
        return f"{start}it is {why}.{end}"
    if not any(rows) and not any(middle):
        return f"{start}it is all zeros.{end}"
    if set(rows) == {1.0} == set(middle):
        return f"{start}it is all ones (kohya's dummy).{end}"
    identity = [0.0] * (2 * width)
    identity[0] = identity[width + 1] = 1.0
    if list(rows) == identity:
        return f"{start}it changes nothing (added to an encoder without one).{end}"
    return None


def _spoiled(values: Iterable[float]) -> Iterable[str]:
    """Why these cannot be weights: trained ones lie between about 1e-8 and 100."""
    sizes = [abs(value) for value in values]
    if not all(map(isfinite, sizes)):
        yield "not finite"
    elif any(value > 1e4 for value in sizes):
        yield "far too large for weights"
    elif sum(0 < value < 1e-30 for value in sizes) * 20 > len(sizes):  # no F16 is that small
        yield "mostly denormal numbers"


def _read(checkpoint: Checkpoint, detection: Detection, names: Iterable[str]) -> tuple[float, ...]:
    values: list[float] = []
    for name in names:
        if (source := detection.sources.get(name)) is not None:
            values += checkpoint.read_values(source.key, 0, _SLICE)
    return tuple(values)


def _layer(number: int) -> str:
    return f"text_model.encoder.layers.{number}."


def add_placeholder_layers(
    state_dict: Mapping[str, torch.Tensor], config: TextEncoderConfig
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """*state_dict* with placeholders for the missing parts that SD2's conditioning does not need.

    The added last layer changes nothing (its two outputs, out_proj and fc2, are zero), and the
    added projection is the identity. Returns the complete state dict and the names of what was
    added, so that a result that passes through an added part can be reported.
    """
    import torch

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
        # In float32 whatever the file holds: half precision would round it.
        completed[LOGIT_SCALE] = torch.tensor(DEFAULT_LOGIT_SCALE, device=like.device)
        added.append(LOGIT_SCALE)
    return completed, tuple(added)
