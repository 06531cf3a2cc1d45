"""Decides from names and shapes alone whether a file holds SD2's text encoder, and how.

The rule: SD2's encoder is where a token embedding of its size shares a prefix with blocks of its
size. The prefix then tells the layout. Reasons are given for every no, and nothing falls back to
another model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TextEncoderConfig, load_config
from ..errors import BrokenEncoderError, NotSD2Error
from ..files.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from .clip_towers import Naming, Tower, find_towers
from .model_families import FAMILY, contents, explain_not_sd2, refuse_tower
from .state_dict_keys import (
    LOGIT_SCALE,
    PROJECTION,
    TOKEN_EMBEDDING,
    openclip_name,
    text_model_shapes,
)

_FLOATS = frozenset(["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])


@dataclass(frozen=True)
class Detection:
    """What a file holds of SD2's text encoder, as far as its header tells."""

    path: Path
    layout: str
    """How the file is laid out, in words: "ldm checkpoint", "diffusers text encoder"…"""
    naming: Naming
    prefix: str
    """What stands before the tensors' names, "text_model." included."""
    num_layers: int
    """Layers that the file holds and that are real."""
    model_layers: int
    """Layers of the whole encoder: 24. Its next to last is the one SD2 uses."""
    width: int
    tokens: int
    """Rows of the token table that are read; those behind, training has added."""
    dtype: str
    """safetensors' name of the type, or "mixed"."""
    family: str
    has_projection: bool
    missing: tuple[str, ...]
    """Canonical names of parts that the file lacks and SD2's conditioning does not need."""
    surplus: tuple[str, ...]
    """Tensors under the prefix that are not part of the encoder, and are not read."""
    suspicious: tuple[str, ...]
    """Sentences about what a user should know."""
    contents: tuple[str, ...]
    """Other models in the same file, in words."""
    notes: tuple[str, ...]
    names: Mapping[str, str]
    """Canonical name to the tensor in the file that holds it (three may share one)."""

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``: everything but the table of names."""
        return {
            "path": str(self.path),
            "family": self.family,
            "layout": self.layout,
            "naming": self.naming,
            "prefix": self.prefix,
            "layers": self.num_layers,
            "model_layers": self.model_layers,
            "width": self.width,
            "dtype": self.dtype,
            "has_projection": self.has_projection,
            "missing": list(self.missing),
            "surplus": list(self.surplus),
            "suspicious": list(self.suspicious),
            "contents": list(self.contents),
            "notes": list(self.notes),
        }

    def describe(self) -> str:
        """Several lines for people."""
        layers = f"{self.num_layers} of {self.model_layers}"
        if self.num_layers < self.model_layers:
            layers += " (SD2 does not use the last)"
        lines = [
            ("Text encoder", f"{self.family}, {self.width} wide"),
            ("File", str(self.path)),
            ("Layout", f"{self.layout}, prefix {self.prefix!r}"),
            ("Layers", layers),
            ("Type", self.dtype),
            ("Projection", "yes" if self.has_projection else "no (only pooled output needs it)"),
        ]
        lines += [("Also there", part) for part in self.contents]
        if self.surplus:
            lines.append(("Not used", shorten(self.surplus)))
        lines += [("Note", sentence) for sentence in (*self.suspicious, *self.notes)]
        return "\n".join(f"{label + ':':<14}{text}" for label, text in lines)


def detect(
    source: str | os.PathLike[str] | Checkpoint, config: TextEncoderConfig | None = None
) -> Detection:
    """Finds SD2's text encoder in a file, folder or opened checkpoint, by its header only.

    *config* gives the sizes to look for (tiny test models); SD2's if it is None.

    Raises NotSD2Error, which names the model that it is; BrokenEncoderError, which lists what is
    missing or misshapen; UnreadableFileError for a file that is no model.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    config = config or load_config()
    tensors = checkpoint.tensors
    towers = find_towers(tensors)
    found: list[_Match] = []
    broken: list[tuple[Tower, list[str]]] = []
    reasons: list[str] = []
    for tower in towers:
        reason = refuse_tower(tower, tensors, config)
        if reason is not None:
            reasons.append(f"{tower.prefix!r}: {reason}")
            continue
        match = _match(tower, tensors, config)
        faults = _faults(match, tensors, config)
        if faults:
            broken.append((tower, faults))
        else:
            found.append(match)
    if not found and broken:
        tower, faults = max(broken, key=lambda item: item[0].blocks)
        raise BrokenEncoderError(
            f"{checkpoint.path}: holds SD2's text encoder (at {tower.prefix!r}), but it is broken: "
            f"{shorten(faults, 6, 1000)}. Download the file again, or choose another one."
        )
    if not found:
        raise NotSD2Error(explain_not_sd2(checkpoint, towers, reasons, config))
    # The most complete; of equals, the first in the file.
    best = max(found, key=lambda match: (match.tower.blocks, len(match.names)))
    return _describe(checkpoint, config, best, towers, [m.tower for m in found if m is not best])


@dataclass(frozen=True)
class _Match:
    tower: Tower
    names: Mapping[str, str]
    """Canonical name to source name, of all that the tower should have and of extras it has."""


def _match(tower: Tower, tensors: Mapping[str, TensorInfo], config: TextEncoderConfig) -> _Match:
    layers = max(tower.blocks, config.num_hidden_layers - 1)
    names = {}
    for canonical in text_model_shapes(config, range(layers)):
        if tower.naming == "openclip":
            names[canonical] = tower.prefix + openclip_name(canonical)
        else:
            names[canonical] = tower.prefix + canonical.removeprefix("text_model.")
    for canonical, suffixes in (
        (PROJECTION, ("text_projection.weight", "text_projection")),
        (LOGIT_SCALE, ("logit_scale",)),
    ):
        homes = (home + suffix for home in _homes(tower.prefix) for suffix in suffixes)
        source = next((name for name in homes if name in tensors), None)
        if source is not None:
            names[canonical] = source
    return _Match(tower, names)


def _homes(prefix: str) -> list[str]:
    """Where the projection and the logit scale may live: beside the tower, or a floor up."""
    homes = [prefix]
    for inner in ("text_model.", "transformer.", "text."):
        if homes[-1].endswith(inner) and homes[-1][: -len(inner)][-1:] in ("", "."):
            homes.append(homes[-1].removesuffix(inner))
    return homes


def _faults(
    match: _Match, tensors: Mapping[str, TensorInfo], config: TextEncoderConfig
) -> list[str]:
    """What keeps the match from being a usable encoder, in words."""
    width = config.hidden_size
    shapes = text_model_shapes(config, range(config.num_hidden_layers))
    faults: dict[str, None] = {}
    absent: list[str] = []
    for canonical, source in match.names.items():
        info = tensors.get(source)
        if info is None:
            absent.append(source)
            continue
        expected: Sequence[tuple[int, ...]]
        if canonical == PROJECTION:
            expected = [(config.projection_dim, width)]
            if not source.endswith(".weight"):  # OpenCLIP's parameter, used as x @ W
                expected = [(width, config.projection_dim)]
        elif canonical == LOGIT_SCALE:
            expected = [(), (1,)]
        elif source.endswith(("in_proj_weight", "in_proj_bias")):
            expected = [(3 * width, *shapes[canonical][1:])]
        elif canonical == TOKEN_EMBEDDING:  # refuse_tower knows how many added tokens may follow
            rows = max(match.tower.vocabulary or 0, config.vocab_size)
            expected = [shapes[canonical], (rows, width)]
        else:
            expected = [shapes[canonical]]
        if info.shape not in expected:
            faults[f"{source!r} is {list(info.shape)} instead of {list(expected[0])}"] = None
        elif info.dtype not in _FLOATS:
            faults[f"{source!r} is of type {info.dtype} (quantised?), not float"] = None
    absent = list(dict.fromkeys(absent))
    if absent:
        faults = {f"{len(absent)} tensors are missing ({shorten(absent)})": None, **faults}
    scaled = next(
        (n for n in tensors if n.startswith(match.tower.prefix)
         and n.endswith((".scale_weight", ".weight_scale", "scaled_fp8"))), None
    )  # fmt: skip
    if scaled is not None:
        faults[f"it is stored as scaled fp8 ({scaled!r}), which cannot be read here"] = None
    return list(faults)


def _describe(
    checkpoint: Checkpoint,
    config: TextEncoderConfig,
    match: _Match,
    towers: Sequence[Tower],
    others: Sequence[Tower],
) -> Detection:
    tower, tensors = match.tower, checkpoint.tensors
    missing = [
        f"text_model.encoder.layers.{layer}"
        for layer in range(tower.blocks, config.num_hidden_layers)
    ]
    missing += [name for name in (PROJECTION, LOGIT_SCALE) if name not in match.names]
    used = set(match.names.values())
    surplus, suspicious = _leftovers(tower, tensors, used)
    added = (tower.vocabulary or 0) - config.vocab_size
    if added > 0:
        suspicious.append(
            f"The token table has {added:,} token{'s' if added > 1 else ''} behind the vocabulary, "
            "as training of textual inversions adds; they are not read. To use what was trained, "
            "put the textual inversion's own file into the embeddings folder."
        )
    for other in others:
        suspicious.append(f"A second SD2 text encoder, at {other.prefix!r}, is not used.")
    for other in towers:
        if other.blocks == 0 and other.width == tower.width:
            suspicious.append(
                f"{other.prefix!r} is a headless copy (no transformer blocks), as in unCLIP-h "
                "files; it is not used."
            )
    projection = match.names.get(PROJECTION, "")
    if projection and tower.naming == "transformers" and not projection.endswith(".weight"):
        suspicious.append(
            f"The projection has its old name {projection!r} and is taken as OpenCLIP's x @ W."
        )
    parts, warnings = contents(checkpoint.tensors, towers, config)
    dtypes = {tensors[name].dtype for name in used}
    return Detection(
        path=checkpoint.path,
        layout=_layout(match, tensors, whole=tower.blocks == config.num_hidden_layers),
        naming=tower.naming,
        prefix=tower.prefix,
        num_layers=tower.blocks,
        model_layers=config.num_hidden_layers,
        width=config.hidden_size,
        tokens=config.vocab_size,
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        family=FAMILY,
        has_projection=bool(projection),
        missing=tuple(missing),
        surplus=tuple(surplus),
        suspicious=(*suspicious, *warnings),
        contents=tuple(parts),
        notes=checkpoint.notes,
        names=match.names,
    )


def _leftovers(
    tower: Tower, tensors: Mapping[str, TensorInfo], used: set[str]
) -> tuple[list[str], list[str]]:
    surplus, suspicious = [], []
    for name in tensors:
        if not name.startswith(tower.prefix) or name in used:
            continue
        inner = name.removeprefix(tower.prefix)
        if inner.endswith("position_ids"):
            # 0, 1, 2… saved as a tensor, sometimes as floats that a merge has spoiled.
            suspicious.append(f"{name!r} is a dead buffer and never used.")
            surplus.append(name)
        elif not inner.startswith(("visual.", "vision_model.", "visual_projection.")):
            surplus.append(name)
    return surplus, suspicious


def _layout(match: _Match, tensors: Mapping[str, TensorInfo], *, whole: bool) -> str:
    prefix, wrapped = match.tower.prefix, ""
    while prefix.startswith("module."):
        prefix, wrapped = prefix.removeprefix("module."), " in a 'module.' wrapper"
    if match.tower.naming == "openclip":
        sees = any(name.startswith(f"{match.tower.prefix}visual.") for name in tensors)
        plain = "OpenCLIP model" if sees else "OpenCLIP text encoder"
        layout = {
            "cond_stage_model.model.": "ldm checkpoint",
            "conditioner.embedders.0.model.": "sgm checkpoint",
            "": plain,
            "text.": "OpenCLIP model",
        }.get(prefix, f"{plain} inside another model")
        return layout + wrapped
    if prefix == "text_model.":
        layout = "transformers text encoder"
        if any("vision_model." in name for name in tensors):
            layout = "transformers CLIP model"
        elif PROJECTION not in match.names and not whole:
            layout = "diffusers text encoder"
        elif match.names.get(PROJECTION, "").endswith("text_projection"):
            layout = "old ComfyUI CLIPSave"
        elif LOGIT_SCALE in match.names:
            layout = "ComfyUI CLIPSave"
        return layout + wrapped
    layout = {
        "": "flattened transformers text encoder",
        "clip_h.transformer.text_model.": "ComfyUI state dump (old CLIPSave)",
        "text_encoders.clip_h.transformer.text_model.": "ComfyUI state dump",
    }.get(prefix, "transformers text encoder inside another model")
    return layout + wrapped


def shorten(items: Sequence[str], limit: int = 4, width: int = 100) -> str:
    """The first few of *items*, each up to *width* characters, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(item[:width] for item in items[:limit]) + more
