"""The standalone CLIP handle."""

import pytest
import tiny
import torch
from sd2_clip.host.standalone_clip import StandaloneClip
from sd2_clip.sd2.model.encode_cache import Recall
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer

TEXT = "a (cat:1.2)"


@pytest.fixture
def clip() -> StandaloneClip:
    return StandaloneClip(tiny.text_encoder(), SD2Tokenizer())


def test_encode_is_tokenize_and_encode_from_tokens(clip):
    tokens = clip.tokenize(TEXT)
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    torch.testing.assert_close(clip.encode(TEXT), cond)
    as_dict = clip.encode_from_tokens(tokens, return_dict=True)
    torch.testing.assert_close(as_dict, {"cond": cond, "pooled_output": pooled})
    ((scheduled, options),) = clip.encode_from_tokens_scheduled(tokens, add_dict={"strength": 0.5})
    torch.testing.assert_close(scheduled, cond)
    torch.testing.assert_close(options["pooled_output"], pooled)
    assert options["strength"] == 0.5


def test_a_clones_layer_is_its_own(clip):
    before = clip.encode(TEXT)
    twin = clip.clone()
    twin.clip_layer(-1)
    assert not torch.equal(twin.encode(TEXT), before)
    torch.testing.assert_close(clip.encode(TEXT), before)


def test_unprojected_pooled_does_not_last(clip):
    tokens = clip.tokenize(TEXT)
    _, projected = clip.encode_from_tokens(tokens, return_pooled=True)
    clip.encode_from_tokens(tokens, return_pooled="unprojected")
    torch.testing.assert_close(clip.encode_from_tokens(tokens, return_pooled=True)[1], projected)


def test_conditioning_can_be_trained_on(clip):
    layer = torch.nn.Linear(32, 1)
    layer(clip.encode(TEXT)).sum().backward()
    assert layer.weight.grad is not None


def test_saved_and_loaded_weights_give_the_same_conditioning(clip):
    other = StandaloneClip(tiny.text_encoder(), SD2Tokenizer())
    weights = {name: tensor.clone() for name, tensor in clip.get_sd().items()}
    with torch.no_grad():
        for parameter in other.cond_stage_model.parameters():
            parameter.zero_()
    missing, unexpected = other.load_sd(weights, full_model=True)
    assert (missing, unexpected) == ([], [])
    torch.testing.assert_close(other.encode(TEXT), clip.encode(TEXT))


@pytest.mark.parametrize("full_model", [False, True])
def test_loaded_weights_are_no_longer_those_of_the_file(clip, full_model):
    clip.cond_stage_model.source = "a file"
    start = "clip_h.transformer." if full_model else ""
    sd = {start + name: tensor for name, tensor in tiny.state_dict().items()}
    clip.load_sd(sd, full_model=full_model)
    assert clip.cond_stage_model.source is None


def identity_layer(clip):
    """The last layer, as it is completed where a file has none."""
    layer = clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers[3]
    with torch.no_grad():
        for linear in (layer.self_attn.out_proj, layer.mlp.fc2):
            linear.weight.zero_()
            linear.bias.zero_()
    clip.cond_stage_model.clip_h.identity_layers = frozenset([3])


@pytest.mark.parametrize(
    ("loaded", "left"),
    [(lambda name: True, set()), (lambda name: ".layers.3." not in name, {3})],
    ids=["with-the-layer", "without-it"],
)
def test_a_layer_is_missing_until_it_is_loaded(clip, loaded, left):
    identity_layer(clip)
    clip.load_sd({name: t for name, t in tiny.state_dict().items() if loaded(name)})
    assert clip.cond_stage_model.clip_h.identity_layers == left


def test_a_completed_layer_that_was_saved_is_still_missing(clip):
    identity_layer(clip)
    clip.load_sd({name: t.clone() for name, t in clip.get_sd().items()}, full_model=True)
    assert clip.cond_stage_model.clip_h.identity_layers == {3}


def test_unknown_tokenizer_arguments_are_ignored(clip):
    clip.set_tokenizer_option("t5xxl_min_length", 256)
    tokens = clip.tokenize(TEXT, images=[], llama_template="{}")
    assert [len(chunk) for chunk in tokens["h"]] == [77]


def test_pooled_is_computed_only_if_asked_for(clip):
    tokens = clip.tokenize(TEXT)
    expected = clip.encode_from_tokens(tokens)
    last = clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers[-1]
    last.forward = last.row = None  # as it would fail
    torch.testing.assert_close(clip.encode_from_tokens(tokens), expected)


def test_patches_meet_a_handle_that_remembers_its_prompts(clip):
    clip.cond_stage_model.clip_h.recall = Recall()
    before = clip.encode(TEXT)
    name = "clip_h.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    patched = clip.clone()
    patched.add_patches({name: lambda weight, strength: weight + strength})
    assert not torch.allclose(patched.encode(TEXT), before)
    torch.testing.assert_close(clip.encode(TEXT), before)
