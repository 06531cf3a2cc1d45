"""Reads the settings of the text encoder from the YAML config of a checkpoint.

All SD 2.x configs have the same (``layer: penultimate``), and a checkpoint can be read without
one; a config matters only if it differs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import NotSD2Error, OptionError, UnreadableFileError
from ..files.bounded_yaml import read_yaml

LAYERS = ("last", "penultimate", "hidden")
"""Layers that a config can name. "hidden" needs ``layer_idx``; ldm itself has the first two."""

_ARCH = "ViT-H-14"
_OURS = ("FrozenOpenCLIPEmbedder", "FrozenOpenCLIPEmbedder2")
_OTHERS = {
    "FrozenCLIPEmbedder": "CLIP-L, the text encoder of Stable Diffusion 1.x",
    "FrozenCLIPT5Encoder": "CLIP-L and T5",
    "FrozenT5Embedder": "T5",
    "BERTEmbedder": "BERT, the text encoder of the first latent diffusion",
    "FrozenOpenCLIPImageEmbedder": "an image encoder",
    "FrozenCLIPImageEmbedder": "an image encoder",
    "ClassEmbedder": "class labels",
    "SpatialRescaler": "images",
}


@dataclass(frozen=True)
class LdmTextEncoder:
    """A config's settings of the text encoder."""

    target: str
    """The class, as the config names it."""
    layer: str = "last"
    """ldm's own default, if the config names none. Every SD 2.x config says "penultimate"."""
    layer_idx: int | None = None
    """Negative, from the end. Used with layer "hidden"; ComfyUI also reads it without."""
    freeze: bool = True


def read_ldm_config(path: str | os.PathLike[str]) -> LdmTextEncoder:
    """The text encoder of a v2-inference.yaml, or of sgm's sd_2_1.yaml.

    Raises NotSD2Error for a config of another model, OptionError for a value that cannot be
    honoured, UnreadableFileError for a file that is not such a config.
    """
    path = Path(path)
    model = _load(path).get("model")
    params = model.get("params") if isinstance(model, dict) else None
    if not isinstance(params, dict):
        raise UnreadableFileError(
            f"{path}: not a config of latent diffusion: 'model: params:' is missing."
        )
    embedders = _embedders(params)
    if not embedders:
        raise NotSD2Error(
            f"{path}: no text encoder is configured in it (no 'cond_stage_config', no "
            "'conditioner_config'). Choose the config of an SD 2.x model, or none at all."
        )
    ours = [embedder for embedder in embedders if _class_name(embedder) in _OURS]
    if len(embedders) > 1 and len(ours) != 1:
        names = ", ".join(_class_name(embedder) or "?" for embedder in embedders)
        raise NotSD2Error(
            f"{path}: has several embedders ({names}), as SDXL does; SD 2.x has one text encoder."
        )
    if not ours:
        name = _class_name(embedders[0])
        what = _OTHERS.get(name, "not a text encoder of Stable Diffusion 2.x")
        raise NotSD2Error(
            f"{path}: its text encoder is {name or _shown(embedders[0])}: {what}. SD 2.x has "
            "FrozenOpenCLIPEmbedder. Choose the config of an SD 2.x model, or none at all."
        )
    return _text_encoder(path, ours[0])


def _load(path: Path) -> dict[str, Any]:
    loaded = read_yaml(path)
    if not isinstance(loaded, dict):
        raise UnreadableFileError(f"{path}: not a config: its top level is not a mapping.")
    return loaded


def _embedders(params: Mapping[str, Any]) -> list[Any]:
    """The embedders: ldm has one, sgm a list of them inside its conditioner."""
    if (stage := params.get("cond_stage_config")) is not None:
        return [stage]
    conditioner = params.get("conditioner_config")
    inner = conditioner.get("params") if isinstance(conditioner, dict) else None
    listed = inner.get("emb_models") if isinstance(inner, dict) else None
    return listed if isinstance(listed, list) else []


def _class_name(embedder: Any) -> str:
    target = embedder.get("target") if isinstance(embedder, dict) else None
    return target.rpartition(".")[2] if isinstance(target, str) else ""


def _text_encoder(path: Path, embedder: Mapping[str, Any]) -> LdmTextEncoder:
    params = embedder.get("params") or {}
    if not isinstance(params, dict):
        raise OptionError(
            f"{path}: the text encoder's 'params' is {_shown(params)}, not a mapping."
        )
    arch = params.get("arch", _ARCH)
    if arch != _ARCH:
        raise NotSD2Error(
            f"{path}: its text encoder is OpenCLIP {_shown(arch)}; SD 2.x has {_ARCH!r} "
            "(ViT-bigG-14 is SDXL's)."
        )
    length = params.get("max_length", 77)
    if length != 77:
        raise OptionError(f"{path}: max_length {_shown(length)} is not 77.")
    layer = params.get("layer", "last")
    if layer not in LAYERS:
        raise OptionError(f"{path}: layer {_shown(layer)} is not one of {', '.join(LAYERS)}.")
    layer_idx = params.get("layer_idx")
    if layer_idx is not None and (type(layer_idx) is not int or not -24 <= layer_idx <= -1):
        raise OptionError(
            f"{path}: layer_idx {_shown(layer_idx)} is not an integer from -24 to -1."
        )
    if layer == "hidden" and layer_idx is None:
        raise OptionError(f"{path}: layer 'hidden' needs a layer_idx from -24 to -1.")
    freeze = params.get("freeze", True)
    if not isinstance(freeze, bool):
        raise OptionError(f"{path}: freeze {_shown(freeze)} is neither true nor false.")
    return LdmTextEncoder(embedder["target"], layer, layer_idx, freeze)


def _shown(value: object) -> str:
    # Not the repr of mappings: aliases can expand a small one without end.
    return repr(value)[:80] if isinstance(value, str | int | float | None) else "a mapping or list"
