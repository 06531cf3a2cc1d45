"""Looks at a few kilobytes of numbers for what shapes cannot tell: parts that were never real.

Three programs write a last layer that SD2 does not need and nobody trained: kohya's tools copy the
layer before it and fill the projection with ones; ComfyUI's CLIPSave writes unset memory when the
file it loaded had 23 layers; this package completes such files by a layer that changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isfinite

from ..files.checkpoint import Checkpoint
from .detect import Detection
from .state_dict_keys import FINAL_NORM, LOGIT_SCALE, PROJECTION

_SLICE = 1024  # elements looked at in each large tensor
_SMALL = ("layer_norm1.weight", "layer_norm1.bias", "layer_norm2.weight", "layer_norm2.bias",
          "self_attn.out_proj.bias", "mlp.fc1.bias", "mlp.fc2.bias",
          "self_attn.q_proj.weight", "self_attn.out_proj.weight", "mlp.fc1.weight",
          "mlp.fc2.weight")  # fmt: skip
_IDENTITY = ("self_attn.out_proj.bias", "self_attn.out_proj.weight", "mlp.fc2.bias",
             "mlp.fc2.weight")  # fmt: skip


@dataclass(frozen=True)
class _Findings:
    layer: str | None
    """Why the last layer is not real; None if nothing speaks against it."""
    projection: str | None
    scale: str | None
    other: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        reasons = (self.layer, self.projection, self.scale, *self.other)
        return tuple(reason for reason in reasons if reason is not None)


def without_dead_parts(checkpoint: Checkpoint, detection: Detection) -> Detection:
    """*detection* without the parts whose numbers are not real; a dummy layer 24 leaves 23 layers.

    The reasons are added to ``suspicious``.
    """
    findings = _findings(checkpoint, detection)
    names, missing = dict(detection.names), list(detection.missing)
    if findings.layer is not None:
        layer = _layer(detection.num_layers - 1)
        names = {name: source for name, source in names.items() if not name.startswith(layer)}
        missing.insert(0, layer.removesuffix("."))
    for part, reason in ((PROJECTION, findings.projection), (LOGIT_SCALE, findings.scale)):
        if reason is not None:
            del names[part]
            missing.append(part)
    return replace(
        detection,
        names=names,
        missing=tuple(missing),
        num_layers=detection.num_layers - (findings.layer is not None),
        has_projection=PROJECTION in names,
        suspicious=(*detection.suspicious, *findings.sentences),
    )


def _findings(checkpoint: Checkpoint, detection: Detection) -> _Findings:
    last = detection.num_layers - 1
    layer = None
    if detection.num_layers == detection.model_layers:
        layer = _judge_layer(checkpoint, detection, last)
    final = _read(checkpoint, detection, [f"{FINAL_NORM}.weight", f"{FINAL_NORM}.bias"])
    spoiled = [f"The final layer norm is {why}." for why in _spoiled(final, detection)]
    scale = _read(checkpoint, detection, [LOGIT_SCALE])
    return _Findings(
        layer,
        _judge_projection(checkpoint, detection),
        f"logit_scale is {scale[0]}." if scale and not isfinite(scale[0]) else None,
        tuple(spoiled),
    )


def _judge_layer(checkpoint: Checkpoint, detection: Detection, last: int) -> str | None:
    start = f"Layer {last + 1} is not real: "
    end = " It is not used."
    numbers = _read(checkpoint, detection, [_layer(last) + part for part in _SMALL])
    norms = _read(checkpoint, detection, [_layer(last) + f"layer_norm{n}.weight" for n in (1, 2)])
    if not numbers:
        return None
    if norms and not any(norms):
        return f"{start}its layer norms are all zero (unset memory, saved).{end}"
    for why in _spoiled(numbers, detection):
        return f"{start}it is {why} (unset memory, saved).{end}"
    if not any(_read(checkpoint, detection, [_layer(last) + part for part in _IDENTITY])):
        return f"{start}it changes nothing (a 23-layer encoder, completed).{end}"
    before = _read(checkpoint, detection, [_layer(last - 1) + part for part in _SMALL])
    if numbers == before:
        return f"{start}it is a copy of layer {last} (kohya's dummy).{end}"
    return None


def _judge_projection(checkpoint: Checkpoint, detection: Detection) -> str | None:
    source, width = detection.names.get(PROJECTION), detection.width
    if source is None:
        return None
    rows = checkpoint.numbers(source, 0, 2 * width)
    middle = checkpoint.numbers(source, width * (width // 2), width)
    if not rows or not middle:
        return None
    start, end = "The projection is not real: ", " Pooled output has none."
    for why in _spoiled((*rows, *middle), detection):
        return f"{start}it is {why}.{end}"
    if not any(rows) and not any(middle):
        return f"{start}it is all zeros.{end}"
    if set(rows) == {1.0} == set(middle):
        return f"{start}it is all ones (kohya's dummy).{end}"
    identity = [0.0] * (2 * width)
    identity[0] = identity[width + 1] = 1.0
    if list(rows) == identity:
        return f"{start}it changes nothing (an encoder without one, completed).{end}"
    return None


def _spoiled(numbers: Iterable[float], detection: Detection) -> Iterable[str]:
    """Why these can be no weights: real ones lie between about 1e-8 and 100."""
    values = [abs(number) for number in numbers]
    if not all(map(isfinite, values)):
        yield "not finite"
    elif any(value > 1e4 for value in values):
        yield "out of all proportion"
    elif detection.dtype not in ("F16", "mixed"):  # small halves are denormal and legal
        tiny = sum(0 < value < 1e-30 for value in values)
        if tiny * 20 > len(values):
            yield "made of denormal numbers"


def _read(checkpoint: Checkpoint, detection: Detection, names: Iterable[str]) -> tuple[float, ...]:
    numbers: list[float] = []
    for name in names:
        if (source := detection.names.get(name)) is not None:
            numbers += checkpoint.numbers(source, 0, _SLICE)
    return tuple(numbers)


def _layer(number: int) -> str:
    return f"text_model.encoder.layers.{number}."
