"""Reads the text encoder's part of LoRA files.

The model family is decided by the width of the tensors, not by the file's metadata.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, nan
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CONTEXT_WIDTHS, TEXT_ENCODER_WIDTHS
from ..errors import SD2ClipError, and_more
from ..files.checkpoint import Checkpoint, fingerprint, open_checkpoint
from .alpha_outside_tensors import (
    AlphaOutsideTensors,
    adapter_config_of,
    find_alpha_outside_tensors,
)
from .tensor_names import TEXT_MODEL, SortedNames, sort_names
from .weight_adapters import (
    OFT,
    Change,
    Difference,
    NewValue,
    Shape,
    WeightChange,
    factors_of,
)

if TYPE_CHECKING:
    from torch import Tensor

_SECOND_ENCODER = re.compile(r"lora_te2_|text_encoder_2\.")
_CROSS_ATTENTION = re.compile(
    r".*attn2[._](processor[._])?to_[kv][._](.*[._])?(down|lora_A|hada_w1_b|diff)([._].*)?"
)


_LARGEST_SCALE = 65504
"""Of a change, before the strength: fp16's largest number. Trained ones are scaled by 0.1 to 10."""


class LoraError(SD2ClipError):
    """A LoRA is for another model, or its tensors do not fit together."""


@dataclass(frozen=True)
class TextEncoderLora:
    """The changes of a LoRA file for SD2's text encoder."""

    path: Path
    changes: Mapping[str, WeightChange]
    """By the name of the weight or bias, ``clip_h.transformer.text_model.….weight``."""
    for_unet: int
    """How many tensors are for the UNet."""
    not_applied: Mapping[str, tuple[str, ...]]
    """Names of tensors for the text encoder that are not applied, by the kind of their change."""
    unmatched: tuple[str, ...]
    """Names of tensors that are for neither, or that do not make up a change."""
    claims: str
    """The base model by the file's metadata; may be empty or wrong."""
    alpha: str
    """Sentence about alpha that was found outside the tensors; may be empty."""

    def check_strength(self, strength: float) -> None:
        """Raise LoraError if the strength is not a number, or overflows with a change's alpha."""
        if not isfinite(strength):
            raise LoraError(f"{self.path}: strength is {strength}. Choose a number such as 1.")
        for name, change in self.changes.items():
            scale = abs(strength) * _scale(change)
            if scale > _LARGEST_SCALE:
                raise LoraError(
                    f"{self.path}: at strength {strength:g} the change of {name} is scaled by "
                    f"{scale:g}, and would overflow. Choose a smaller strength."
                )

    def describe(self, strength: float, refused: tuple[str, ...] = ()) -> str:
        """Several lines for people: what was found, and what was applied.

        *refused* are the names of changes that the host did not apply.
        """
        lines = [str(self.path)]
        if self.changes:
            changes = self.changes.values()
            kinds = " and ".join(sorted({change.kind for change in changes}))
            ranks = sorted({change.rank for change in changes if change.rank is not None})
            rank = f", rank {', '.join(map(str, ranks))}" if ranks else ""
            applied = len(self.changes) - len(refused)
            lines.append(
                f"{kinds} for Stable Diffusion 2{rank}: {applied} weights{self._where()} changed "
                f"at strength {strength:g}"
            )
        elif self.not_applied or self.unmatched:
            lines.append("nothing of it was applied: the CLIP is unchanged")
        elif self.for_unet:
            lines.append("is for the UNet alone: the CLIP is unchanged")
        else:
            lines.append("holds nothing for the text encoder: the CLIP is unchanged")
        if self.alpha:
            lines.append(self.alpha)
        if self.claims:
            lines.append(f"metadata: {self.claims}")
        if self.for_unet:
            lines.append(f"{self.for_unet} tensors are for the UNet: load them with Load LoRA")
        named = [
            ("not applied", refused),
            *((f"not applied ({kind})", names) for kind, names in self.not_applied.items()),
            ("not understood", self.unmatched),
        ]
        for what, names in named:
            if names:
                lines.append(f"{len(names)} tensors {what}: {and_more(names)}")
        return "\n".join(lines)

    def _where(self) -> str:
        """In which layers the changed weights are, and how many are in none."""
        inside = [name for name in self.changes if ".layers." in name]
        layers = {name.split(".layers.")[1].split(".")[0] for name in inside}
        outside = len(self.changes) - len(inside)
        places = [f"in {len(layers)} layers"] if layers else []
        places += [f"{outside} outside them" if layers else "outside the layers"] * bool(outside)
        return f" {' and '.join(places)}"


def lora_fingerprint(path: str | PathLike[str]) -> list[list[Any]]:
    """Name, modification time (ns) and size of all files that ``read_lora`` reads."""
    files = fingerprint(path)
    config = adapter_config_of(Path(files[0][0]))
    if config is not None:
        status = config.stat()
        files.append([str(config), status.st_mtime_ns, status.st_size])
    return files


def read_lora(path: str | PathLike[str], shapes: Mapping[str, tuple[int, ...]]) -> TextEncoderLora:
    """Read the text encoder's part of a LoRA.

    *shapes* are those of the CLIP's weights, by name; they give its width and its layers. Raises
    LoraError for a file of another family, UnreadableFileError for one that is not a model.
    """
    width = shapes.get(f"{TEXT_MODEL}final_layer_norm.weight", (0,))[0]
    if not width:
        raise LoraError(
            "The CLIP is not Stable Diffusion 2's. Connect one from Load SD2 CLIP or from the "
            "loader of an SD2 checkpoint."
        )
    checkpoint = open_checkpoint(fspath(path))
    names = sort_names(checkpoint.tensors)
    wanted = (name for parts in names.modules.values() for name in parts.values())
    tensors = checkpoint.read_unmapped(wanted)  # changes are kept for as long as the CLIP is
    outside = None
    if not any("alpha" in parts for parts in names.modules.values()):
        outside = find_alpha_outside_tensors(checkpoint)
    found: dict[str, _Found] = {}
    for module, parts in names.modules.items():
        found.update(_changes_of(module, parts, tensors, names, outside))
    _check_family(checkpoint, found, width)
    changes: dict[str, WeightChange] = {}
    for weight, one in found.items():
        if weight not in shapes:
            names.unmatched += one.names
            continue
        _check(checkpoint.path, one, tuple(shapes[weight]), tensors)
        changes[weight] = one.change
    return TextEncoderLora(
        path=checkpoint.path,
        changes=changes,
        for_unet=names.for_unet,
        not_applied={kind: tuple(of_kind) for kind, of_kind in names.not_applied.items()},
        unmatched=tuple(names.unmatched),
        claims=_claims(checkpoint.metadata),
        alpha=_alpha_sentence(outside, changes.values()),
    )


@dataclass(frozen=True)
class _Found:
    """A change, and the names of the tensors that it is made of."""

    change: WeightChange
    names: tuple[str, ...]


def _changes_of(
    module: str,
    parts: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    names: SortedNames,
    outside: AlphaOutsideTensors | None,
) -> dict[str, _Found]:
    """The changes of a module's weight and bias, by their names; the rest goes to *names*."""
    found: dict[str, _Found] = {}
    left = dict(parts)
    bias = left.pop("diff_b", None) or left.pop("b_norm", None)
    if bias is not None:
        found[f"{module}.bias"] = _Found(Change(Difference(tensors[bias])), (bias,))
    alpha, dora = left.pop("alpha", None), left.pop("dora_scale", None)
    scales = tuple(name for name in (alpha, dora) if name is not None)
    if not left:
        if bias is None:
            names.unmatched += scales
        return found
    kinds, first = set(left), next(iter(left.values()))
    change: WeightChange | None = None
    made_of = (*left.values(), *scales)
    if kinds == {"oft_blocks"} and tensors[first].dim() == 4:
        names.not_apply(made_of, "BOFT")
        return found
    if kinds == {"oft_blocks"} and tensors[first].dim() == 3 and dora is None:
        change = OFT(tensors[first], _alpha(tensors, alpha))
    elif kinds == {"set_weight"}:
        change = NewValue(tensors[first])
    elif kinds == {"w_norm"}:
        change = Change(Difference(tensors[first]))
    elif (factors := factors_of({part: tensors[name] for part, name in left.items()})) is not None:
        if isinstance(factors, Difference):
            change = Change(factors)
        else:
            number = _alpha(tensors, alpha)
            if number is None and outside is not None and factors.rank is not None:
                number = outside.of(module.removeprefix("clip_h.transformer."), factors.rank)
            scale = None if dora is None else tensors[dora]
            if scale is not None and scale.dim() == 1:
                scale = scale.unsqueeze(1)  # PEFT's magnitude vector: one value per row
            change = Change(factors, number, scale)
    if change is None:
        names.not_apply(made_of)
        return found
    return {f"{module}.weight": _Found(change, made_of), **found}


def _alpha(tensors: Mapping[str, Tensor], name: str | None) -> float | None:
    """The value of alpha; NaN if it is not one real number."""
    if name is None:
        return None
    tensor = tensors[name]
    return float(tensor) if tensor.numel() == 1 and not tensor.is_complex() else nan


def _check_family(checkpoint: Checkpoint, found: Mapping[str, _Found], width: int) -> None:
    """Raise LoraError if the shapes of the changes belong to another family."""
    whose = TEXT_ENCODER_WIDTHS.get(width, "of no Stable Diffusion model known here")
    advice = f"The CLIP is {width} wide ({whose}). Choose a LoRA trained for Stable Diffusion 2."
    for weight, one in found.items():
        side = _width_of(weight, one.change.shape)
        if side and side != width:
            family = TEXT_ENCODER_WIDTHS.get(side, "of no Stable Diffusion model known here")
            raise LoraError(
                f"{checkpoint.path}: this LoRA's text encoder is {side} wide ({family}). {advice}"
            )
    if any(_SECOND_ENCODER.match(name) for name in checkpoint.tensors):
        raise LoraError(f"{checkpoint.path}: this LoRA is for two text encoders (SDXL). {advice}")
    for name, info in checkpoint.tensors.items():
        if _CROSS_ATTENTION.fullmatch(name) and len(info.shape) > 1:
            context = info.shape[1]
            if width in CONTEXT_WIDTHS and context != width and context in CONTEXT_WIDTHS:
                raise LoraError(
                    f"{checkpoint.path}: this LoRA is for the UNet of {CONTEXT_WIDTHS[context]} "
                    f"(conditioning {context} wide). {advice}"
                )
            return


def _width_of(weight: str, shape: Shape | None) -> int | None:
    """Width of the text encoder whose *weight* has *shape*; None if the shape does not tell."""
    if not shape or weight.endswith("fc1.bias"):
        return None
    return shape[-1 if weight.endswith(("fc1.weight", "embedding.weight")) else 0]


def _check(
    path: Path, found: _Found, shape: tuple[int, ...], tensors: Mapping[str, Tensor]
) -> None:
    """Raise LoraError if a change does not fit a weight of *shape*, or cannot be computed."""
    change, named = found.change, and_more(found.names)
    given = change.shape
    if (
        given is None
        or len(given) != len(shape)
        or any(size not in (None, expected) for size, expected in zip(given, shape, strict=True))
    ):
        sizes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in found.names)
        raise LoraError(f"{path}: {sizes} do not fit a weight of shape {shape}.")
    if change.rank is not None and change.rank > max(shape):
        raise LoraError(
            f"{path}: {named} have rank {change.rank:,}, more than the {max(shape):,} of the "
            "weight that they change. The file is damaged, or made to fill the memory."
        )
    alpha = None if isinstance(change, NewValue) else change.alpha
    scale = change.dora_scale if isinstance(change, Change) else None
    scales = ((shape[0], 1), (1, shape[-1]))
    if (alpha is not None and not isfinite(alpha)) or (
        scale is not None and tuple(scale.shape) not in scales
    ):
        raise LoraError(
            f"{path}: the alpha or dora_scale of {named} is damaged: alpha is one number, and "
            f"dora_scale one for each row or column of a {shape} weight."
        )
    if alpha is not None and change.rank is not None and abs(alpha) > _LARGEST_SCALE * change.rank:
        raise LoraError(
            f"{path}: alpha of {named} is {alpha:g} for rank {change.rank}: the change would "
            "overflow. The file is damaged. Choose another LoRA."
        )
    for name in found.names:
        tensor = tensors[name]
        if not (tensor.float() if tensor.itemsize == 1 else tensor).isfinite().all():
            raise LoraError(
                f"{path}: {name} holds NaN or infinity, which would make every result so. The "
                "file is damaged, or its training failed. Choose another LoRA."
            )


def _scale(change: WeightChange) -> float:
    """By how much a change is scaled at strength 1."""
    if isinstance(change, Change) and change.alpha is not None and change.rank:
        return abs(change.alpha / change.rank)
    return 1.0


def _alpha_sentence(outside: AlphaOutsideTensors | None, changes: Iterable[WeightChange]) -> str:
    """What became of alpha that was found outside the tensors."""
    ranked = [one for one in changes if isinstance(one, Change) and one.rank is not None]
    if outside is None or not ranked:
        return ""
    factors = sorted({one.alpha / one.rank for one in ranked if one.alpha and one.rank})
    if not factors:
        return f"alpha in {outside.source} is not used: it is for rank {outside.rank}"
    root = ", divided by the square root of the rank (rsLoRA)" if outside.rslora else ""
    return (
        f"alpha {outside.alpha:g} from {outside.source}{root}: the change is scaled by "
        f"{and_more([f'{factor:g}' for factor in factors])}. ComfyUI's own LoRA loader does not "
        "read alpha there, and scales by 1"
    )


def _claims(metadata: Mapping[str, str]) -> str:
    keys = ("ss_base_model_version", "ss_v2", "modelspec.architecture")
    return ", ".join(f"{key}={metadata[key]}" for key in keys if metadata.get(key))
