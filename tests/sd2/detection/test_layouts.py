"""Names of other programs, against those that the tests write files with."""

import layouts
import pytest
import torch
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.layouts import diffusers_config, diffusers_tensors, openclip_tensors

CONFIG = load_config(layouts.TINY_CONFIG)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.fixture(scope="module")
def encoder():
    return layouts.canonical_encoder()


def test_openclip_names_are_those_of_open_clip(encoder):
    assert_same(openclip_tensors(encoder), layouts.openclip(encoder))


def test_openclip_without_a_projection_has_none(encoder):
    text_model = layouts.text_model_only(encoder)
    assert_same(openclip_tensors(text_model), layouts.openclip(text_model))


def test_diffusers_has_neither_the_last_layer_nor_the_projection(encoder):
    expected = layouts.diffusers(encoder)
    assert_same(diffusers_tensors(encoder, CONFIG), expected)
    assert_same(diffusers_tensors(expected, CONFIG), expected)


def test_the_config_is_that_of_the_published_pipelines():
    """As in stabilityai/stable-diffusion-2-1, but for the dtype and the version."""
    assert diffusers_config(load_config()) == {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "dropout": 0.0,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 4096,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "pad_token_id": 1,
        "projection_dim": 512,
        "vocab_size": 49408,
    }
