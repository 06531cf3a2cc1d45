"""From a file to a CLIP handle: where the text encoder and the host meet.

Nodes, command line, data sets and library all load through here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from .. import host
from ..host.devices import DTYPES
from ..host.interface import Clip, Placement, progress_sink
from ..sd2.config import load_config
from ..sd2.detection.detection import Detection
from ..sd2.detection.placeholder_weights import add_placeholder_layers
from ..sd2.detection.read_encoder import encoder_tensors, read_encoder
from ..sd2.errors import OptionError
from ..sd2.files.checkpoint import Checkpoint, open_checkpoint
from ..sd2.files.tensor_hash import state_dict_digest

log = logging.getLogger("sd2_clip")

AnyPath = str | PathLike[str]

RANDOM_WEIGHTS_KEY = "sd2_clip.random_weights"
"""In a file's metadata: its weights are random and its results mean nothing."""


@dataclass
class EncoderSource:
    """Where a text encoder's weights came from; kept on the model as ``source``."""

    detection: Detection
    placement: Placement
    notes: tuple[str, ...]
    """What a user should know of this loading beyond ``detection``."""
    _files: tuple[Path, ...] = field(repr=False)
    read: Callable[[], Mapping[str, torch.Tensor]] = field(repr=False)
    """The tensors once more, from the file, as the model was built from them."""
    _stamps: list[tuple[int, int]] = field(init=False, repr=False)
    _digest: str | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._stamps = self._current_stamps()

    def _current_stamps(self) -> list[tuple[int, int]]:
        return [(stat.st_mtime_ns, stat.st_size) for stat in map(Path.stat, self._files)]

    def describe(self) -> str:
        """What was found and done, for people: the ``info`` of the loader node."""
        place = self.placement
        dtype = str(place.dtype).removeprefix("torch.")
        loaded = f"{'Loaded:':<14}as {dtype}, encodes on {place.load_device}"
        return "\n".join([self.detection.describe(), loaded, *(f"Note: {n}" for n in self.notes)])

    def digest(self) -> str:
        """SHA-256 over names, shapes, dtypes and bytes of the encoder's tensors in the file.

        Reads the file when first asked; it says so if the file is no longer what was loaded.
        """
        if self._digest is None:
            try:
                unchanged = self._stamps == self._current_stamps()
            except OSError:
                unchanged = False
            if not unchanged:
                return "unknown: the file was changed after it was loaded"
            checkpoint = open_checkpoint(self.detection.path)
            self._digest = state_dict_digest(encoder_tensors(checkpoint, self.detection))
        return self._digest


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A torch dtype from its name or one of ours (fp32, fp16, bf16); None for ``auto``."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None or dtype == "auto":
        return None
    name = dtype.removeprefix("torch.")
    if name not in DTYPES:
        raise OptionError(f"dtype {dtype!r} is unknown. Choose auto, {', '.join(DTYPES)}.")
    return DTYPES[name]


def load_clip(
    paths: AnyPath | Sequence[AnyPath],
    embedding_directory: AnyPath | Sequence[AnyPath] | None = None,
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    layer: str = "penultimate",
    layer_idx: int | None = None,
    *,
    model_options: Mapping[str, Any] | None = None,
) -> Clip:
    """The CLIP handle for the text encoder in a file, a sharded set or a diffusers folder.

    *paths* is one path, or a list with the one path in it: SD2 has a single text encoder.
    *embedding_directory* is where ``embedding:name`` is looked up; None: the host's folders.
    *device* is auto, cpu or gpu:N; *dtype* a torch dtype or fp32, fp16, bf16; None lets the host
    choose. *layer* is last, penultimate, all, or hidden with *layer_idx*.
    ``model_options["clip_h_model_config"]`` overlays the encoder's sizes (tiny models, for tests).

    Raises ``SD2ClipError``, which says what the file holds instead and what to do.
    """
    if not isinstance(paths, (str, PathLike)):
        if len(paths) != 1:
            raise OptionError(f"SD2 has one text encoder, so one path is needed, not {len(paths)}.")
        paths = paths[0]
    runs_in = host.current()
    placement = runs_in.place(str(device), parse_dtype(dtype))

    def place(tensor: torch.Tensor) -> torch.Tensor:
        # First over to the device as it is, then cast there: one transfer, and GPUs cast faster.
        return tensor.to(placement.offload_device).to(placement.dtype)

    config = load_config((model_options or {}).get("clip_h_model_config"))

    # Ordinary tensors, though ComfyUI runs nodes in inference mode: an inference tensor could
    # never again be changed in place outside of it.
    @torch.inference_mode(False)
    def read() -> tuple[Checkpoint, Detection, dict[str, torch.Tensor], Sequence[str]]:
        checkpoint, detection, state_dict = read_encoder(paths, place, config, progress_sink.get())
        return checkpoint, detection, *add_placeholder_layers(state_dict, config)

    checkpoint, detection, state_dict, added = read()
    clip = runs_in.build_clip(
        state_dict,
        placement=placement,
        embedding_directory=_folders(embedding_directory),
        layer=layer,
        layer_idx=layer_idx,
        model_options=dict(model_options or {}),
    )
    inner = clip.cond_stage_model.clip_h
    if detection.num_layers < detection.model_layers:
        inner.identity_layers = frozenset(range(detection.num_layers, detection.model_layers))
    notes = [*placement.notes, *_notes(checkpoint, detection, added, inner.layer_number())]
    clip.cond_stage_model.source = EncoderSource(
        detection, placement, tuple(notes), checkpoint.files, read=lambda: read()[2]
    )
    for note in notes:
        log.warning("%s: %s", detection.path, note)
    return clip


def _notes(
    checkpoint: Checkpoint, detection: Detection, added: Sequence[str], layer_number: int
) -> list[str]:
    notes = []
    if RANDOM_WEIGHTS_KEY in checkpoint.metadata:
        notes.append("this file has RANDOM WEIGHTS; what it encodes means nothing.")
    if layer_number >= detection.num_layers:
        notes.append(
            f"layer {layer_number + 1} was chosen, but the file has {detection.num_layers}: the "
            f"result is that of layer {detection.num_layers}, SD2's default."
        )
    return notes


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
    """The CLIP handle for the text encoder of a checkpoint, with the layer that its YAML names.

    *config_path* is an ldm or sgm YAML whose conditioner is a ``FrozenOpenCLIPEmbedder``; without
    one the layer is SD2's, the penultimate. Of the checkpoint only the text encoder is read.

    Raises ``SD2ClipError``, which says what a file holds instead and what to do.
    """
    if ckpt_path is None:
        raise OptionError("load_checkpoint needs ckpt_path, the checkpoint file.")
    layer, layer_idx = "penultimate", None
    if config_path is not None:
        from ..sd2.detection.ldm_config import read_ldm_config

        config = read_ldm_config(config_path)
        layer, layer_idx = config.layer, config.layer_idx
    return load_clip(
        ckpt_path, embedding_directory, device, dtype, layer, layer_idx, model_options=model_options
    )
