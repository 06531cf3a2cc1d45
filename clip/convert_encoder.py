"""Writes the text encoder of a file in the layout of another program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..sd2.config import TextEncoderConfig, load_config
from ..sd2.detection.detection import Detection
from ..sd2.detection.layouts import (
    LAYOUTS,
    VARIANTS,
    diffusers_config,
    diffusers_tensors,
    openclip_tensors,
)
from ..sd2.detection.read_encoder import read_encoder
from ..sd2.errors import OptionError, and_more, check_choice
from ..sd2.files.atomic_write import check_writable, write_bytes, write_safetensors
from ..sd2.tokens.tokenizer_files import tokenizer_files
from .load_clip import AnyPath, parse_dtype

if TYPE_CHECKING:
    import torch


def convert_encoder(
    source: AnyPath,
    out: Path,
    *,
    layout: str = "comfy",
    dtype: str = "auto",
    variant: str | None = None,
    overwrite: bool = False,
    config: TextEncoderConfig | None = None,
) -> tuple[Detection, Path]:
    """Write the text encoder in *source* to *out*; return what was found, and the file of weights.

    *layout* ``comfy`` is one file under transformers' names, with all layers that *source* has;
    ``openclip`` is one file under OpenCLIP's names, which needs all layers; ``diffusers`` is a
    folder with ``text_encoder`` and ``tokenizer``, to which *out* may belong already. *variant* is
    the dtype in the name of the folder's weights. A *dtype* of ``auto`` keeps that of *source*.

    The weights are written last, and each file whole or not at all: a folder that holds them is
    complete. *overwrite* allows to replace files of these names; no others are touched.
    """
    check_choice("layout", layout, LAYOUTS)
    config = config or load_config()
    others: dict[Path, bytes] = {}
    if layout == "diffusers":
        weights, others = _pipeline_files(out, variant, config)
        dtype = _dtype_of_variant(dtype, variant)
    else:
        weights = out
        if variant is not None:
            raise OptionError("variant names a file of --layout diffusers; leave it out here.")
        if out.suffix != ".safetensors":
            raise OptionError(f"{out}: the output file name must end in .safetensors.")
    if not overwrite:
        _check_free(weights, others)
    to = parse_dtype(dtype)
    check_writable(out if out.is_dir() else out.parent)
    checkpoint, detection, state_dict = read_encoder(
        # Copies: what is mapped may change, and query, key and value of OpenCLIP files share
        # memory, which safetensors rejects.
        source,
        lambda tensor: tensor.to(to or tensor.dtype, copy=True),
        config,
    )
    checkpoint.check_crcs(source.key for source in detection.sources.values())
    tensors = _renamed(state_dict, layout, detection, config)
    for path, content in others.items():
        write_bytes(path, content)
    write_safetensors(weights, tensors, {**checkpoint.metadata, "format": "pt"})
    return detection, weights


def _pipeline_files(
    out: Path, variant: str | None, config: TextEncoderConfig
) -> tuple[Path, dict[Path, bytes]]:
    """Return the path of the weights in a pipeline folder, and the other files by their path."""
    if out.suffix == ".safetensors" or out.is_file():
        raise OptionError(f"{out}: layout diffusers is a folder. Give the name of a folder.")
    if variant is not None:
        check_choice("variant", variant, VARIANTS)
    encoder = out / "text_encoder"
    settings = json.dumps(diffusers_config(config), indent=2, sort_keys=True) + "\n"
    files = {out / "tokenizer" / name: content for name, content in tokenizer_files().items()}
    files[encoder / "config.json"] = settings.encode()
    return encoder / ".".join(filter(None, ("model", variant, "safetensors"))), files


def _dtype_of_variant(dtype: str, variant: str | None) -> str:
    """Return the dtype to write: a variant's name is that of its dtype."""
    if variant is None:
        return dtype
    if dtype not in ("auto", variant):
        raise OptionError(
            f"A variant named {variant} cannot hold {dtype}. Leave out dtype or variant."
        )
    return variant


def _check_free(weights: Path, others: dict[Path, bytes]) -> None:
    """Raise OptionError if files would be replaced by others than themselves."""
    taken = [path for path in others if path.exists() and not _holds(path, others[path])]
    taken += [weights] if weights.exists() else []
    if taken:
        names = and_more([str(path) for path in taken], 3)
        verb = "already exists" if len(taken) == 1 else "already exist"
        raise OptionError(f"{names} {verb}. Choose another name, or add --force.")


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def _renamed(
    state_dict: dict[str, torch.Tensor],
    layout: str,
    detection: Detection,
    config: TextEncoderConfig,
) -> dict[str, torch.Tensor]:
    """Rename the tensors for *layout*."""
    tensors = state_dict
    if layout == "diffusers":
        tensors = diffusers_tensors(state_dict, config)
    elif layout == "openclip":
        if detection.num_layers < detection.model_layers:
            raise OptionError(
                f"{detection.path}: OpenCLIP's layout needs all {detection.model_layers} layers, "
                f"and this file has {detection.num_layers}. Convert a checkpoint that has them, "
                "or choose another layout."
            )
        tensors = openclip_tensors(state_dict)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
