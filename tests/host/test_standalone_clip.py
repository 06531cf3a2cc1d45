"""The standalone CLIP handle."""

import pytest
import tiny
import torch
from sd2_clip.host.standalone_clip import StandaloneClip
from sd2_clip.sd2.errors import NotFiniteError
from sd2_clip.sd2.model.encoder_setup import EncoderSetup
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
def test_loaded_weights_have_no_source(full_model):
    clip = StandaloneClip(tiny.text_encoder(setup=EncoderSetup(source="a file")), SD2Tokenizer())
    start = "clip_h.transformer." if full_model else ""
    sd = {start + name: tensor for name, tensor in tiny.state_dict().items()}
    clip.load_sd(sd, full_model=full_model)
    assert clip.cond_stage_model.source is None


def test_a_patched_copy_keeps_the_facts_about_the_weights():
    facts = EncoderSetup(placeholder_layers=frozenset({3}), source=object())
    clip = StandaloneClip(tiny.text_encoder(setup=facts), SD2Tokenizer())
    name = "clip_h.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    clip.add_patches({name: lambda weight, strength: weight + strength})
    assert clip.cond_stage_model.clip_h.setup == facts


def test_unknown_tokenizer_arguments_are_ignored(clip):
    clip.set_tokenizer_option("t5xxl_min_length", 256)
    tokens = clip.tokenize(TEXT, images=[], llama_template="{}")
    assert [len(chunk) for chunk in tokens["h"]] == [77]


def test_pooled_is_computed_only_if_asked_for(clip):
    tokens = clip.tokenize(TEXT)
    expected = clip.encode_from_tokens(tokens)
    last = clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers[-1]
    last.forward = last.forward_at = None  # as it would fail
    torch.testing.assert_close(clip.encode_from_tokens(tokens), expected)


def test_patches_count_although_results_are_cached():
    clip = StandaloneClip(tiny.caching_text_encoder(), SD2Tokenizer())
    before = clip.encode(TEXT)
    name = "clip_h.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    patched = clip.clone()
    patched.add_patches({name: lambda weight, strength: weight + strength})
    assert not torch.allclose(patched.encode(TEXT), before)
    torch.testing.assert_close(clip.encode(TEXT), before)


def test_a_result_that_is_not_finite_is_an_error(clip):
    layers = clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers
    layers[1].mlp.fc1.weight.data.view(-1)[99] = float("nan")
    with pytest.raises(NotFiniteError, match=r"layers\.1\.mlp\.fc1\.weight"):
        clip.encode(TEXT)
