"""A tiny encoder with the reference embeddings, as a CLIP handle."""

import pytest
import tiny
from sd2_clip.clip.load_clip import load_clip


@pytest.fixture
def clip(standalone):
    return load_clip(
        tiny.GOLDEN / "tiny_text_encoder.safetensors",
        embedding_directory=tiny.GOLDEN / "embeddings",
        device="cpu",
        dtype="fp32",
        model_options=tiny.MODEL_OPTIONS,
    )
