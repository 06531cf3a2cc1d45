"""The nodes, and a tiny encoder with a textual inversion, on a standalone host."""

import layouts
import pytest
import torch
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection import detect


@pytest.fixture
def nodes():
    return {name: node() for name, node in NODE_CLASS_MAPPINGS.items()}


@pytest.fixture
def clip(standalone, tmp_path, monkeypatch):
    """A tiny encoder, and a textual inversion of two vectors beside it."""
    monkeypatch.setattr(detect, "load_config", lambda: load_config(layouts.TINY_CONFIG))
    models = tmp_path / "models"
    layouts.save_safetensors(layouts.canonical_encoder(), models / "clip/sd2.safetensors")
    rows = torch.randn(2, layouts.TINY_CONFIG["hidden_size"])
    layouts.save_safetensors({"emb_params": rows}, models / "embeddings/style.safetensors")
    return load_clip(
        models / "clip/sd2.safetensors",
        device="cpu",
        model_options={"clip_h_model_config": layouts.TINY_CONFIG},
    )
