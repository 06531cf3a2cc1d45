"""Finds SD2's text encoder in a file by names and shapes, and leaves out its placeholder layers.

The rule: SD2's encoder is where a token embedding of its size shares a prefix with blocks of its
size. The prefix then tells the layout. Every tower that is refused comes with a reason, and no
other model is taken instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import TextEncoderConfig, load_config
from ..errors import BrokenEncoderError, NotSD2Error, and_more
from ..files.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from .clip_towers import Tower, find_towers
from .detection import Detection, main_dtypes
from .empty_weights import explain_empty_weights
from .model_families import FAMILY, contents, explain_not_sd2, refuse_tower
from .placeholder_weights import drop_placeholder_weights
from .state_dict_keys import (
    LOGIT_SCALE,
    PROJECTION,
    TOKEN_EMBEDDING,
    encoder_shapes,
    openclip_source,
    text_model_shapes,
    transformers_source,
)
from .tensor_source import FirstRows, Scalar, TensorSource, Transform, Transposed, Unchanged

_FLOATS = frozenset(["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])


def detect(
    source: str | os.PathLike[str] | Checkpoint, config: TextEncoderConfig | None = None
) -> Detection:
    """Finds SD2's text encoder in a file, folder or opened checkpoint.

    Reads the header, and a few kilobytes of weights to recognise placeholders and downloads that
    are incomplete: a dummy last layer counts as missing. *config* gives the sizes to look for (tiny
    test models); SD2's if it is None.

    Raises NotSD2Error, which names the model that the file holds; BrokenEncoderError, which lists
    what is missing, misshapen or empty; UnreadableFileError for a file that is not a model.
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
        match = _Match(tower, _sources(tower, tensors, config))
        faults = _faults(match, tensors, config)
        if faults:
            broken.append((tower, faults))
        else:
            found.append(match)
    if not found and broken:
        tower, faults = max(broken, key=lambda item: item[0].blocks)
        raise BrokenEncoderError(
            f"{checkpoint.path}: holds SD2's text encoder (at {tower.prefix!r}), but it is broken: "
            f"{and_more(faults, 6)}. {_remedy(checkpoint)}"
        )
    if not found:
        raise NotSD2Error(explain_not_sd2(checkpoint, towers, reasons, config))
    # The most complete; of equals, the first in the file.
    best = max(found, key=lambda match: (match.tower.blocks, len(match.sources)))
    others = [match.tower for match in found if match is not best]
    detection = _describe(checkpoint, config, best, towers, others)
    detection = drop_placeholder_weights(checkpoint, detection)
    if (empty := explain_empty_weights(checkpoint, detection)) is not None:
        raise BrokenEncoderError(
            f"{checkpoint.path}: holds SD2's text encoder (at {best.tower.prefix!r}), but {empty}. "
            f"{_remedy(checkpoint)}"
        )
    return detection


def _remedy(checkpoint: Checkpoint) -> str:
    if not checkpoint.files:
        return "Pass all tensors of the text encoder, as they were loaded."
    return "Download the file again, or choose another one."


@dataclass(frozen=True)
class _Match:
    tower: Tower
    sources: Mapping[str, TensorSource]
    """By canonical name: all that the tower should have, and the extras that it has."""


def _sources(
    tower: Tower, tensors: Mapping[str, TensorInfo], config: TextEncoderConfig
) -> dict[str, TensorSource]:
    source_of = openclip_source if tower.key_style == "openclip" else transformers_source
    layers = max(tower.blocks, config.num_hidden_layers - 1)
    sources = {
        canonical: source_of(tower.prefix, canonical)
        for canonical in text_model_shapes(config, range(layers))
    }
    if (added := (tower.vocabulary or 0) - config.vocab_size) > 0:
        sources[TOKEN_EMBEDDING] = TensorSource(sources[TOKEN_EMBEDDING].key, FirstRows(added))
    for home in reversed(_homes(tower.prefix)):
        for canonical, suffix, transform in _OUTSIDE_THE_TOWER:
            if (key := home + suffix) in tensors:
                sources[canonical] = TensorSource(key, transform)
    return sources


# Tensors of the encoder outside its tower. Of several, the last counts.
_OUTSIDE_THE_TOWER: tuple[tuple[str, str, Transform], ...] = (
    (LOGIT_SCALE, "logit_scale", Scalar()),
    (PROJECTION, "text_projection", Transposed()),
    (PROJECTION, "text_projection.weight", Unchanged()),
)


def _homes(prefix: str) -> list[str]:
    """Prefixes of the projection and the logit scale: the tower's own, and the levels above it."""
    homes = [prefix]
    for inner in ("text_model.", "transformer.", "text."):
        if homes[-1].endswith(inner) and homes[-1][: -len(inner)][-1:] in ("", "."):
            homes.append(homes[-1].removesuffix(inner))
    return homes


def _faults(
    match: _Match, tensors: Mapping[str, TensorInfo], config: TextEncoderConfig
) -> list[str]:
    """Why the match is not a usable encoder, in words; empty if it is one."""
    shapes = encoder_shapes(config)
    faults: dict[str, None] = {}  # a stacked tensor is the source of three, and named once
    absent: dict[str, None] = {}
    for canonical, source in match.sources.items():
        key = source.key
        info = tensors.get(key)
        if info is None:
            absent[key] = None
            continue
        expected = source.transform.source_shapes(shapes[canonical])
        if info.shape not in expected:
            faults[f"{key!r} is {list(info.shape)} instead of {list(expected[0])}"] = None
        elif info.dtype not in _FLOATS:
            faults[f"{key!r} is of type {info.dtype} (quantised?), not float"] = None
    if absent:
        names = and_more([key[:100] for key in absent], 4)
        faults = {f"{len(absent)} tensors are missing ({names})": None, **faults}
    prefix, scales = match.tower.prefix, (".scale_weight", ".weight_scale", "scaled_fp8")
    scaled = next((key for key in tensors if key.startswith(prefix) and key.endswith(scales)), None)
    if scaled is not None:
        faults[f"it is stored as scaled fp8 ({scaled!r}), which is not supported"] = None
    return [fault[:1000] for fault in faults]


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
    missing += [name for name in (PROJECTION, LOGIT_SCALE) if name not in match.sources]
    used = {source.key for source in match.sources.values()}
    surplus = _leftovers(tower, tensors, used)
    warnings = []
    added = (tower.vocabulary or 0) - config.vocab_size
    if added > 0:
        warnings.append(
            f"The token table has {added:,} token{'s' if added > 1 else ''} after the vocabulary, "
            "as training of a textual inversion adds; they are not read. To use the textual "
            "inversion, put its own file into the embeddings folder."
        )
    for other in others:
        warnings.append(f"A second SD2 text encoder, at {other.prefix!r}, is not used.")
    for other in towers:
        if other.blocks == 0 and other.width == tower.width:
            warnings.append(
                f"{other.prefix!r} is a copy without transformer blocks, as in unCLIP-h files; "
                "it is not used."
            )
    projection = match.sources.get(PROJECTION)
    if projection is not None and _is_old_clipsave(match):
        warnings.append(
            f"The projection has its old name {projection.key!r} and is read as OpenCLIP's x @ W."
        )
    parts, about_parts = contents(checkpoint.tensors, towers, config)
    return Detection(
        path=checkpoint.path,
        layout=_layout(match, tensors, whole=tower.blocks == config.num_hidden_layers),
        key_style=tower.key_style,
        prefix=tower.prefix,
        num_layers=tower.blocks,
        model_layers=config.num_hidden_layers,
        width=config.hidden_size,
        dtype=" and ".join(main_dtypes(tensors, used)),
        family=FAMILY,
        has_projection=projection is not None,
        missing=tuple(missing),
        surplus=tuple(surplus),
        warnings=(*warnings, *about_parts),
        contents=tuple(parts),
        notes=checkpoint.notes,
        sources=match.sources,
    )


def _leftovers(tower: Tower, tensors: Mapping[str, TensorInfo], used: set[str]) -> list[str]:
    vision = ("visual.", "vision_model.", "visual_projection.")
    return [
        name
        for name in tensors
        if name.startswith(tower.prefix)
        and name not in used
        and not name.removeprefix(tower.prefix).startswith(vision)
    ]


def _layout(match: _Match, tensors: Mapping[str, TensorInfo], *, whole: bool) -> str:
    prefix, wrapped = match.tower.prefix, ""
    while prefix.startswith("module."):
        prefix, wrapped = prefix.removeprefix("module."), " in a 'module.' wrapper"
    if match.tower.key_style == "openclip":
        has_vision = any(name.startswith(f"{match.tower.prefix}visual.") for name in tensors)
        plain = "OpenCLIP model" if has_vision else "OpenCLIP text encoder"
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
        elif PROJECTION not in match.sources and not whole:
            layout = "diffusers text encoder"
        elif _is_old_clipsave(match):
            layout = "old ComfyUI CLIPSave"
        elif LOGIT_SCALE in match.sources:
            layout = "ComfyUI CLIPSave"
        return layout + wrapped
    layout = {
        "": "flattened transformers text encoder",
        "clip_h.transformer.text_model.": "ComfyUI state dump (old CLIPSave)",
        "text_encoders.clip_h.transformer.text_model.": "ComfyUI state dump",
    }.get(prefix, "transformers text encoder inside another model")
    return layout + wrapped


def _is_old_clipsave(match: _Match) -> bool:
    """Whether transformers' names come with OpenCLIP's projection, as ComfyUI used to save it."""
    projection = match.sources.get(PROJECTION)
    return (
        match.tower.key_style == "transformers"
        and projection is not None
        and projection.transform == Transposed()
    )
