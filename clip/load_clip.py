"""Loads a CLIP handle from a file or from weights in memory.

Nodes, command line, data sets and library all use this.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch

from .. import host
from ..host.devices import DTYPES, accelerators
from ..host.interface import Clip, progress_sink
from ..sd2.config import load_config
from ..sd2.detection.detection import Detection
from ..sd2.detection.placeholder_weights import add_placeholder_layers
from ..sd2.detection.read_encoder import read_encoder
from ..sd2.errors import OptionError
from ..sd2.files.checkpoint import Checkpoint, open_checkpoint
from ..sd2.files.loaded_tensors import LoadedTensors, open_loaded
from .source import EncoderSource, placeholders

log = logging.getLogger("sd2_clip")

AnyPath = str | PathLike[str]

RANDOM_WEIGHTS_KEY = "sd2_clip.random_weights"
"""Key in a file's metadata: the weights are random and conditioning from them is meaningless."""


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Return the torch dtype of this name (torch's, or fp32, fp16, bf16); None for ``auto``."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None or dtype == "auto":
        return None
    name = dtype.removeprefix("torch.")
    if name not in DTYPES:
        raise OptionError(f"dtype {dtype!r} is unknown. Choose auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def load_clip(
    paths: AnyPath | Sequence[AnyPath] | Mapping[str, Any] | torch.nn.Module,
    embedding_directory: AnyPath | Sequence[AnyPath] | None = None,
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    layer: str = "penultimate",
    layer_idx: int | None = None,
    *,
    model_options: Mapping[str, Any] | None = None,
) -> Clip:
    """Load the text encoder in a file, a sharded set or a diffusers folder as a CLIP handle.

    *paths* is one path, or a list of one path: SD2 has a single text encoder. It may also be a
    state dict or a module in memory, such as a pipeline's ``text_encoder``: the handle then uses
    its tensors, on their device and in their dtype unless *device* or *dtype* says otherwise.
    *embedding_directory* is where ``embedding:name`` is searched; None: the host's folders.
    *device* is auto, cpu or gpu:N. *dtype* is a torch dtype or fp32, fp16, bf16; None: the host
    selects it. *layer* is last, penultimate, all, or hidden with *layer_idx*.
    ``model_options["clip_h_model_config"]`` overrides the encoder's sizes (tiny models, for tests).

    Raises ``SD2ClipError``, which says what the file holds instead and what to do.
    """
    opened = _opened(paths)
    runs_in = host.current()
    wanted = parse_dtype(dtype)
    # ComfyUI decides for itself where weights lie, and moves them while it runs.
    if isinstance(opened, LoadedTensors) and not host.inside_comfyui():
        device, wanted = _own_device(opened, str(device), wanted)
    placement = runs_in.select_device(str(device), wanted)

    mapped = False

    def place(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal mapped
        placed = tensor.to(placement.offload_device)
        narrower = tensor.dtype in (torch.float16, torch.bfloat16)
        if not (placement.keeps_narrower and narrower):
            # Moved first, then cast: one transfer, and GPUs cast faster.
            placed = placed.to(placement.dtype)
        mapped |= placed is tensor
        return placed

    config = load_config((model_options or {}).get("clip_h_model_config"))

    # Ordinary tensors, although ComfyUI runs nodes in inference mode: an inference tensor cannot
    # be changed in place outside of it.
    @torch.inference_mode(False)
    def read() -> tuple[Checkpoint, Detection, dict[str, torch.Tensor], Sequence[str]]:
        checkpoint, detection, state_dict = read_encoder(opened, place, config, progress_sink.get())
        return checkpoint, detection, *add_placeholder_layers(state_dict, config)

    checkpoint, detection, state_dict, added = read()

    def read_again() -> Mapping[str, torch.Tensor]:
        for stamp in checkpoint.stamps:
            stamp.open().close()
        return read()[2]

    absent_layers, projection_absent = placeholders(added, config.num_hidden_layers)
    notes = placement.notes
    if RANDOM_WEIGHTS_KEY in checkpoint.metadata:
        notes = (*notes, "this file has RANDOM WEIGHTS; conditioning from it is meaningless.")
    source = EncoderSource(
        detection=detection,
        placement=placement,
        placeholder_layers=absent_layers,
        placeholder_projection=projection_absent,
        notes=notes,
        stamps=checkpoint.stamps,
        mapped=mapped,
        header_sha256=checkpoint.header_digest(),
        reopen=lambda: opened if isinstance(opened, LoadedTensors) else open_checkpoint(opened),
        read=read_again,
    )
    clip = runs_in.build_clip(
        state_dict,
        source=source,
        embedding_directory=_folders(embedding_directory),
        layer=layer,
        layer_idx=layer_idx,
        model_options=dict(model_options or {}),
    )
    if not host.inside_comfyui():
        from .library_clip import library_clip

        clip = library_clip(clip)
    for note in notes:
        log.warning("%s: %s", detection.path, note)
    return clip


def _opened(
    source: AnyPath | Sequence[AnyPath] | Mapping[str, Any] | torch.nn.Module,
) -> AnyPath | LoadedTensors:
    """Return the one path of *source*, or its tensors in memory."""
    if isinstance(source, (str, PathLike)):
        return source
    if isinstance(source, (Mapping, torch.nn.Module)):
        return open_loaded(source)
    if not isinstance(source, Sequence):
        has_encoder = hasattr(source, "text_encoder")
        raise OptionError(
            f"Expected a path, a state dict or a module; got a {type(source).__name__}."
            + (" Pass its text_encoder." if has_encoder else "")
        )
    if len(source) != 1:
        raise OptionError(
            f"Expected one path, because SD2 has one text encoder; got {len(source)}."
        )
    return source[0]


def _own_device(
    opened: LoadedTensors, device: str, dtype: torch.dtype | None
) -> tuple[str, torch.dtype | None]:
    """Return the device and dtype of tensors in memory, where the caller asked for none."""
    floats = [tensor for tensor in opened.held.values() if tensor.is_floating_point()]
    if device != "auto" or not floats:
        return device, dtype
    own = floats[0].device
    if own.type == "cpu":
        return "cpu", dtype  # computes in fp32; narrower tensors stay as they are
    same = [(gpu.type, gpu.index or 0) for gpu in accelerators()]
    return f"gpu:{same.index((own.type, own.index or 0))}", dtype or floats[0].dtype


def _folders(embedding_directory: AnyPath | Sequence[AnyPath] | None) -> list[str]:
    if embedding_directory is None:
        return [str(folder) for folder in host.current().model_folders("embeddings")]
    if isinstance(embedding_directory, (str, PathLike)):
        return [str(embedding_directory)]
    return [str(folder) for folder in embedding_directory]


def load_checkpoint(
    config_path: AnyPath | None = None,
    ckpt_path: AnyPath | None = None,
    embedding_directory: AnyPath | Sequence[AnyPath] | None = None,
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    *,
    model_options: Mapping[str, Any] | None = None,
) -> Clip:
    """Load the text encoder of a checkpoint as a CLIP handle, with the layer that its YAML names.

    *config_path* is an ldm or sgm YAML whose conditioner is a ``FrozenOpenCLIPEmbedder``; without
    it the layer is SD2's, the penultimate. Only the text encoder of the checkpoint is read.

    Raises ``SD2ClipError``, which says what a file holds instead and what to do.
    """
    if ckpt_path is None:
        raise OptionError(
            "ckpt_path is missing. Give load_checkpoint the path of the checkpoint file."
        )
    layer, layer_idx = "penultimate", None
    if config_path is not None:
        from ..sd2.detection.ldm_config import read_ldm_config

        config = read_ldm_config(config_path)
        layer, layer_idx = config.layer, config.layer_idx
    return load_clip(
        ckpt_path, embedding_directory, device, dtype, layer, layer_idx, model_options=model_options
    )
