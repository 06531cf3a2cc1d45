"""Where NaN and infinity come from: a weight, a layer, or neither."""

import re

import pytest
import tiny
import torch
from sd2_clip.sd2.model.nonfinite import (
    NonFiniteStates,
    NonFiniteWeight,
    explain,
    find_nonfinite,
    is_finite,
)

CHUNK = [49406, 320, 2368, *[49407] * 74]
WEIGHT = "text_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture
def encoder():
    return tiny.text_encoder().clip_h


def find(encoder):
    return find_nonfinite(encoder.transformer, lambda: encoder.encode_chunks([CHUNK], 1))


def blocks(encoder):
    return encoder.transformer.text_model.encoder.layers


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_that_are_not_finite_are_seen(value):
    assert is_finite(None, torch.ones(2), torch.empty(0, 3))
    assert not is_finite(torch.ones(2), torch.tensor([1.0, value]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_first_weight_in_the_models_order_is_named(value, encoder):
    for number in (1, 2):
        blocks(encoder)[number].mlp.fc1.weight.data.view(-1)[99] = value
    assert find(encoder) == NonFiniteWeight(WEIGHT, is_overflow=False)


def test_the_layer_is_found_where_finite_weights_overflow(encoder):
    blocks(encoder)[2].layer_norm1.weight.data.fill_(3e38)
    assert find(encoder) == NonFiniteStates(3, torch.float32)


def test_what_follows_the_last_layer_is_told_apart(encoder):
    encoder.transformer.text_model.final_layer_norm.weight.data.fill_(3.4e38)
    assert find(encoder) == NonFiniteStates(None, torch.float32)


def test_a_sound_encoder_is_not_accused_and_keeps_no_hooks(encoder):
    assert find(encoder) is None
    assert not any(module._forward_hooks for module in encoder.modules())


@pytest.mark.parametrize(
    ("dtype", "cure"),
    [
        (torch.float16, "with float16 weights it appears at layer 3. .*bf16 or fp32"),
        (torch.bfloat16, "dtype of Load SD2 CLIP to fp32"),
        (torch.float32, "values too large"),
    ],
    ids=str,
)
def test_another_dtype_is_proposed_where_all_weights_are_finite(dtype, cure):
    assert re.search(cure, explain(NonFiniteStates(3, dtype), None))


def test_a_lora_is_named_as_the_cause_only_where_it_changed_the_weight():
    origin = NonFiniteWeight(WEIGHT, is_overflow=False)
    prefix = "clip_h.transformer."
    assert "after a LoRA or a merge changed it" in explain(origin, None, [prefix + origin.name])
    assert "LoRA" not in explain(origin, None, [prefix + "text_projection.weight"])
