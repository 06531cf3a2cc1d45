"""A tiny SD2 text encoder (32 wide, 4 layers) and ComfyUI's results on it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.sd2_clip import SD2ClipModel, build_text_encoder

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
CONFIG = json.loads((GOLDEN / "tiny_config.json").read_text(encoding="utf-8"))
MODEL_OPTIONS = {"clip_h_model_config": CONFIG}


def state_dict() -> dict[str, torch.Tensor]:
    """The tiny encoder's tensors, fp16, under transformers' names."""
    return load_file(GOLDEN / "tiny_text_encoder.safetensors")


def text_encoder(dtype: torch.dtype = torch.float32, **options: Any) -> SD2ClipModel:
    return build_text_encoder(state_dict(), dtype=dtype, model_options=MODEL_OPTIONS, **options)


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
