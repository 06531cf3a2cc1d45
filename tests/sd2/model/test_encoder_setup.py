"""Facts that are handed over to an encoder, and what they say of its pooled vectors."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from sd2_clip.sd2.model.encode_cache import EncodeCache
from sd2_clip.sd2.model.encoder_setup import EncoderSetup

NO_LAYER = {"placeholder_layers": frozenset({23})}
NO_PROJECTION = {"placeholder_projection": True}


@pytest.mark.parametrize(
    ("facts", "projected", "expected"),
    [
        ({}, True, ""),
        (NO_LAYER, False, "comes from layer 23: the file has no layer 24"),
        (NO_PROJECTION, True, "is not projected: the file has no text projection"),
        (NO_PROJECTION, False, ""),
        (
            NO_LAYER | NO_PROJECTION,
            True,
            "comes from layer 23 and is not projected: the file has no layer 24 and no text "
            "projection",
        ),
    ],
    ids=["complete", "no layer", "no projection", "projection not requested", "neither"],
)
def test_pooled_limits_name_effect_and_cause(facts, projected, expected):
    found = EncoderSetup(**facts).pooled_limits(24, projected=projected)
    assert found == ("the pooled vector " + expected if expected else "")


def test_a_copied_encoder_has_the_same_facts_and_a_cache_of_its_own():
    facts = EncoderSetup(**NO_LAYER, **NO_PROJECTION, source=object(), cache=EncodeCache())
    model = tiny.text_encoder(setup=facts)
    twin = copy.deepcopy(model)
    assert twin.source is model.source
    assert replace(twin.clip_h.setup, cache=facts.cache) == facts
    assert isinstance(twin.clip_h.setup.cache, EncodeCache)
    assert twin.clip_h.setup.cache is not facts.cache


def test_results_are_left_on_the_output_device():
    model = tiny.text_encoder(setup=EncoderSetup(output_device=torch.device("meta")))
    tokens = {"h": [[(49406, 1.0), (49407, 1.0)]]}
    assert {result.device.type for result in model.encode_token_weights(tokens)} == {"meta"}


def test_activations_have_the_compute_dtype():
    model = tiny.text_encoder(setup=EncoderSetup(compute_dtype=torch.bfloat16))
    x, _ = model.clip_h.embed(model.clip_h.read_chunks([[49406, 49407]], 1))
    assert x.dtype == torch.bfloat16
