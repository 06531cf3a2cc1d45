"""Reads the text encoder's part of LoRA files, under the names of every trainer.

Names (kohya's, diffusers', PEFT's, ComfyUI's; with or without ``text_model.``) are parsed by one
pattern, and the model family is decided by the width of the tensors, not by the file's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, nan
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import CONTEXT_WIDTHS, TEXT_ENCODER_WIDTHS
from ..errors import SD2ClipError, and_more
from ..files.checkpoint import Checkpoint, open_checkpoint
from .weight_adapters import PARTS, Change, Factors, factors_of, shape_of

if TYPE_CHECKING:
    from torch import Tensor

_NAME = re.compile(
    r"(?:base_model\.model\.)?"
    r"(?:lora_te1?_|text_encoder\.|text_encoders\.clip_h\.transformer\.|clip_h\.transformer\.)?"
    r"(?:base_model\.model\.)?"
    r"(?:text_model[._])?encoder[._]layers[._](?P<layer>\d+)[._]"
    r"(?:self_attn[._](?:to_)?(?P<attn>q|k|v|out)(?:_proj)?|mlp[._](?P<mlp>fc[12]))"
    r"(?P<part>[._].+)"
)

_PARTS = {
    "up": re.compile(
        r"\.lora_up\.weight|\.lora_B(\.\w+)?(\.weight)?|[._]lora(_linear_layer)?\.up\.weight"
    ),
    "down": re.compile(
        r"\.lora_down\.weight|\.lora_A(\.\w+)?(\.weight)?|[._]lora(_linear_layer)?\.down\.weight"
    ),
    **{
        name: re.compile(rf"\.{name}")
        for name in PARTS
        if name not in ("up", "down")  # LyCORIS' have one name each
    },
    "alpha": re.compile(r"\.alpha"),
    "dora_scale": re.compile(r"\.dora_scale|\.lora_magnitude_vector(\.\w+)?(\.weight)?"),
}

_UNET = re.compile(r"(lora_)?unet[._]|diffusion_model\.|model\.diffusion_model\.")
_SECOND_ENCODER = re.compile(r"lora_te2_|text_encoder_2\.")
_CROSS_ATTENTION = re.compile(r".*attn2[._](processor[._])?to_[kv]\b.*(down|lora_A)\b.*")


class LoraError(SD2ClipError):
    """A LoRA is for another model, or its tensors do not fit together."""


@dataclass(frozen=True)
class TextEncoderLora:
    """The changes of a LoRA file for SD2's text encoder."""

    path: Path
    changes: Mapping[str, Change]
    """By the name of the weight, ``clip_h.transformer.text_model.encoder.layers….weight``."""
    for_unet: int
    """How many tensors are for the UNet."""
    unmatched: tuple[str, ...]
    """Names of tensors that are for neither."""
    claims: str
    """The base model by the file's metadata; may be empty or wrong."""

    def describe(self, strength: float, not_applied: tuple[str, ...] = ()) -> str:
        """Several lines for people: what was found, and what was applied."""
        lines = [str(self.path)]
        if self.changes:
            layers = {name.split(".layers.")[1].split(".")[0] for name in self.changes}
            changes = self.changes.values()
            kinds = sorted(
                {"DoRA" if c.dora_scale is not None else c.factors.kind for c in changes}
            )
            ranks = sorted({c.factors.rank for c in changes if c.factors.rank is not None})
            rank = f", rank {', '.join(map(str, ranks))}" if ranks else ""
            applied = len(self.changes) - len(not_applied)
            lines.append(
                f"{' and '.join(kinds)} for Stable Diffusion 2{rank}: {applied} "
                f"weights in {len(layers)} layers changed at strength {strength:g}"
            )
        else:
            lines.append("holds nothing for the text encoder: the CLIP is unchanged")
        if self.claims:
            lines.append(f"metadata: {self.claims}")
        if self.for_unet:
            lines.append(f"{self.for_unet} tensors are for the UNet: load them with Load LoRA")
        for what, names in (("not applied", not_applied), ("not understood", self.unmatched)):
            if names:
                lines.append(f"{len(names)} tensors {what}: {and_more(names)}")
        return "\n".join(lines)


def _claims(metadata: Mapping[str, str]) -> str:
    keys = ("ss_base_model_version", "ss_v2", "modelspec.architecture")
    return ", ".join(f"{key}={metadata[key]}" for key in keys if metadata.get(key))


def _sort(checkpoint: Checkpoint) -> tuple[dict[str, dict[str, str]], int, list[str]]:
    """Weight -> part -> tensor name; how many tensors are for the UNet; the names of the rest."""
    modules: dict[str, dict[str, str]] = {}
    for_unet = 0
    rest: list[str] = []
    for name in checkpoint.tensors:
        match = _NAME.fullmatch(name)
        part = match and next((p for p, r in _PARTS.items() if r.fullmatch(match["part"])), None)
        if match and part:
            inner = f"self_attn.{match['attn']}_proj" if match["attn"] else f"mlp.{match['mlp']}"
            weight = f"text_model.encoder.layers.{match['layer']}.{inner}.weight"
            module = modules.setdefault(f"clip_h.transformer.{weight}", {})
            if part in module:  # under two spellings
                rest.append(name)
            else:
                module[part] = name
        elif _UNET.match(name):
            for_unet += 1
        else:
            rest.append(name)
    return modules, for_unet, rest


def _check_family(
    checkpoint: Checkpoint, found: Mapping[str, tuple[int, int] | None], width: int
) -> None:
    """Raise LoraError if the shapes of the changes belong to another family."""
    whose = TEXT_ENCODER_WIDTHS.get(width, "of no Stable Diffusion model known here")
    advice = f"The CLIP is {width} wide ({whose}). Choose a LoRA trained for Stable Diffusion 2."
    for weight, shape in found.items():
        side = shape and shape[1 if weight.endswith("fc1.weight") else 0]
        if side and side != width:
            family = TEXT_ENCODER_WIDTHS.get(side, "of no Stable Diffusion model known here")
            raise LoraError(
                f"{checkpoint.path}: this LoRA's text encoder is {side} wide ({family}). {advice}"
            )
    if any(_SECOND_ENCODER.match(name) for name in checkpoint.tensors):
        raise LoraError(f"{checkpoint.path}: this LoRA is for two text encoders (SDXL). {advice}")
    for name, info in checkpoint.tensors.items():
        if _CROSS_ATTENTION.match(name) and len(info.shape) > 1:
            context = info.shape[1]
            if width in CONTEXT_WIDTHS and context != width and context in CONTEXT_WIDTHS:
                raise LoraError(
                    f"{checkpoint.path}: this LoRA is for the UNet of {CONTEXT_WIDTHS[context]} "
                    f"(conditioning {context} wide). {advice}"
                )
            return


def _alpha(tensor: Tensor) -> float:
    """The value of alpha; NaN if it is not one real number."""
    return float(tensor) if tensor.numel() == 1 and not tensor.is_complex() else nan


def read_lora(path: str | PathLike[str], shapes: Mapping[str, tuple[int, ...]]) -> TextEncoderLora:
    """Read the text encoder's part of a LoRA.

    *shapes* are those of the CLIP's weights, by name; they give its width and its layers. Raises
    LoraError for a file of another family, UnreadableFileError for one that is not a model.
    """
    width = shapes.get("clip_h.transformer.text_model.final_layer_norm.weight", (0,))[0]
    if not width:
        raise LoraError(
            "The CLIP is not Stable Diffusion 2's. Connect one from Load SD2 CLIP or from the "
            "loader of an SD2 checkpoint."
        )
    checkpoint = open_checkpoint(fspath(path))
    modules, for_unet, unmatched = _sort(checkpoint)
    tensors = checkpoint.read(name for parts in modules.values() for name in parts.values())
    factors: dict[str, Factors] = {}
    for weight, parts in modules.items():
        made = factors_of({part: tensors[name] for part, name in parts.items()})
        if made is None:
            unmatched += parts.values()
        else:
            factors[weight] = made
    found = {weight: shape_of(made) for weight, made in factors.items()}
    _check_family(checkpoint, found, width)
    changes: dict[str, Change] = {}
    for weight, made in factors.items():
        parts = modules[weight]
        if weight not in shapes:
            unmatched += parts.values()
            continue
        if found[weight] != tuple(shapes[weight]):
            named = ", ".join(
                f"{name} {tuple(checkpoint.tensors[name].shape)}"
                for part, name in parts.items()
                if part in PARTS
            )
            raise LoraError(
                f"{checkpoint.path}: {named} do not fit a weight of shape {tuple(shapes[weight])}."
            )
        alpha = _alpha(tensors[parts["alpha"]]) if "alpha" in parts else None
        scale = tensors[parts["dora_scale"]] if "dora_scale" in parts else None
        if scale is not None and scale.dim() == 1:
            scale = scale.unsqueeze(1)  # PEFT's magnitude vector: one value per row
        outputs, inputs = shapes[weight]
        wrong = [
            parts[part]
            for part, fits in (
                ("alpha", alpha is None or isfinite(alpha)),
                ("dora_scale", scale is None or tuple(scale.shape) in ((outputs, 1), (1, inputs))),
            )
            if not fits
        ]
        if wrong:
            raise LoraError(
                f"{checkpoint.path}: {wrong[0]} is damaged: alpha is one number, and dora_scale "
                f"one for each row or column of a {(outputs, inputs)} weight."
            )
        changes[weight] = Change(made, alpha, scale)
    return TextEncoderLora(
        path=checkpoint.path,
        changes=changes,
        for_unet=for_unet,
        unmatched=tuple(unmatched),
        claims=_claims(checkpoint.metadata),
    )
