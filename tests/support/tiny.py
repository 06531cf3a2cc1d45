"""A tiny SD2 text encoder (32 wide, 4 layers) and ComfyUI's results on it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.host.interface import DevicePlacement
from sd2_clip.sd2.model.encode_cache import EncodeCache
from sd2_clip.sd2.model.encoder_setup import SETUP_KEY, EncoderSetup
from sd2_clip.sd2.sd2_clip import SD2ClipModel, build_text_encoder

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
CONFIG = json.loads((GOLDEN / "tiny_config.json").read_text(encoding="utf-8"))
MODEL_OPTIONS = {"clip_h_model_config": CONFIG}


def state_dict() -> dict[str, torch.Tensor]:
    """The tiny encoder's tensors, fp16, under transformers' names."""
    return load_file(GOLDEN / "tiny_text_encoder.safetensors")


def text_encoder(
    dtype: torch.dtype = torch.float32, *, setup: EncoderSetup | None = None, **options: Any
) -> SD2ClipModel:
    model_options = {**MODEL_OPTIONS, SETUP_KEY: setup or EncoderSetup()}
    return build_text_encoder(state_dict(), dtype=dtype, model_options=model_options, **options)


def caption_encoder(**options: Any) -> Any:
    """A ``CaptionEncoder`` of the tiny encoder, in fp32 on the CPU unless *options* differ."""
    from sd2_clip.dataset import CaptionEncoder

    options = {"device": "cpu", "dtype": "fp32"} | options
    file = GOLDEN / "tiny_text_encoder.safetensors"
    return CaptionEncoder(file, model_options=MODEL_OPTIONS, **options)


def caching_text_encoder() -> SD2ClipModel:
    return text_encoder(setup=EncoderSetup(cache=EncodeCache()))


def short_state_dict() -> dict[str, torch.Tensor]:
    """The same encoder with placeholders for its last layer and its projection."""
    tensors = state_dict()
    for name in tensors:
        if ".layers.3." in name and ("out_proj" in name or "fc2" in name):
            tensors[name] = torch.zeros_like(tensors[name])
    tensors["text_projection.weight"] = torch.eye(32, dtype=torch.float16)
    return tensors


SHORT_SETUP = EncoderSetup(placeholder_layers=frozenset({3}), placeholder_projection=True)


def short_text_encoder() -> SD2ClipModel:
    """The encoder of ``short_state_dict``, which knows of its placeholders."""
    options = {**MODEL_OPTIONS, SETUP_KEY: SHORT_SETUP}
    return build_text_encoder(short_state_dict(), dtype=torch.float32, model_options=options)


@dataclass(frozen=True)
class Source:
    """A ``WeightsSource`` that reads the tiny encoder."""

    placement: DevicePlacement
    placeholder_layers: frozenset[int] = frozenset()
    placeholder_projection: bool = False

    def read(self) -> dict[str, torch.Tensor]:
        return state_dict()

    def check_files(self) -> None:
        """It is not mapped."""

    def describe(self) -> str:
        return "the tiny encoder"

    def digest(self) -> str:
        return "0" * 64


def mapped_text_encoder(folder: Path) -> SD2ClipModel:
    """The same as a loader makes it: in fp32, mapped from a file in *folder*."""
    file = folder / "tiny.safetensors"
    save_file({name: tensor.float() for name, tensor in state_dict().items()}, file)
    clip = load_clip(file, device="cpu", dtype="fp32", model_options=MODEL_OPTIONS)
    model: SD2ClipModel = clip.cond_stage_model
    return model


def core_cases() -> list[dict[str, Any]]:
    """ComfyUI's own encodings: text, layer (None: as loaded), and the id of the results."""
    cases = json.loads((GOLDEN / "encode.json").read_text(encoding="utf-8"))["cases"]
    return [case for case in cases if case["kind"] == "core"]


def adv_cases() -> list[dict[str, Any]]:
    """ComfyUI_ADV_CLIP_emb's encodings: text, interpretation, normalization, id of the results."""
    cases = json.loads((GOLDEN / "encode.json").read_text(encoding="utf-8"))["cases"]
    return [case for case in cases if case["kind"] == "adv"]
