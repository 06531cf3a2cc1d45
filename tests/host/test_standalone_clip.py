"""The standalone CLIP handle."""

import pytest
import tiny
import torch
from safetensors.torch import save_file
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.host.standalone_clip import StandaloneClip
from sd2_clip.sd2.errors import NotFiniteError
from sd2_clip.sd2.model import onednn
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


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 1e39])
def test_a_change_that_is_not_finite_changes_nothing(clip, strength):
    before = clip.encode(TEXT)
    name = "clip_h.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    with pytest.raises(NotFiniteError, match=r"layers\.0\.mlp\.fc1\.weight has values"):
        clip.add_patches({name: lambda weight, strength: weight + strength}, strength)
    assert not clip.patches
    torch.testing.assert_close(clip.encode(TEXT), before, atol=0, rtol=0)


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


@pytest.fixture
def from_fp16(tmp_path) -> tuple[StandaloneClip, StandaloneClip]:
    """Handles on one fp16 file: loaded as fp32, and on its values converted before."""
    tensors = {name: tensor.half() for name, tensor in tiny.state_dict().items()}
    handles = []
    for name, dtype in (("half", torch.float16), ("whole", torch.float32)):
        file = tmp_path / f"{name}.safetensors"
        save_file({key: tensor.to(dtype) for key, tensor in tensors.items()}, file)
        clip = load_clip(file, device="cpu", dtype="fp32", model_options=tiny.MODEL_OPTIONS)
        assert isinstance(clip, StandaloneClip)
        handles.append(clip)
    return handles[0], handles[1]


WEIGHT = "clip_h.transformer.text_model.encoder.layers.0.mlp.fc1.weight"


def stored(clip: StandaloneClip) -> torch.dtype:
    return clip.cond_stage_model.state_dict()[WEIGHT].dtype


def test_an_fp16_file_gives_the_values_of_its_fp32_conversion(from_fp16):
    half, whole = from_fp16
    assert stored(half) == torch.float16
    for text in (TEXT, "another"):
        torch.testing.assert_close(half.encode(text), whole.encode(text), atol=0, rtol=0)
    torch.testing.assert_close(half.get_sd(), whole.get_sd(), atol=0, rtol=0)


def test_a_patched_weight_of_an_fp16_file_is_computed_and_kept_in_fp32(from_fp16):
    small = {
        WEIGHT: lambda weight, strength: weight + 1e-6 * strength,
        WEIGHT.replace("weight", "bias"): lambda weight, strength: weight + 1e-6 * strength,
    }
    for clip in from_fp16:
        clip.add_patches(small)
    half, whole = from_fp16
    assert stored(half) == torch.float32
    torch.testing.assert_close(half.get_sd(), whole.get_sd(), atol=0, rtol=0)
    torch.testing.assert_close(half.encode(TEXT), whole.encode(TEXT), atol=0, rtol=0)


@pytest.mark.parametrize("full_model", [False, True])
def test_values_loaded_into_an_fp16_file_keep_their_precision(from_fp16, full_model):
    half, whole = from_fp16
    start = "clip_h.transformer."
    exact = {name: tensor * 1.0001 for name, tensor in whole.get_sd().items() if start in name}
    sd = exact if full_model else {n.removeprefix(start): t for n, t in exact.items()}
    twin = half.clone()
    half.load_sd(sd, full_model=full_model)
    found = twin.get_sd()
    torch.testing.assert_close({name: found[name] for name in exact}, exact, atol=0, rtol=0)


def test_a_patched_twin_leaves_packed_weights_as_they_are(from_fp16, monkeypatch):
    if onednn.reorder_weight() is None:
        pytest.skip("needs oneDNN on x86")
    monkeypatch.setattr(onednn, "PACK_AFTER", 2)
    clip, expected = from_fp16
    for number in range(3):
        clip.encode(f"{TEXT} {number}")
    before = clip.encode(TEXT)
    owner = clip.cond_stage_model.get_submodule(WEIGHT.removesuffix(".weight"))
    patched = clip.clone()
    patched.add_patches({WEIGHT: lambda weight, strength: weight + strength})
    assert not torch.allclose(patched.encode(TEXT), before)
    assert isinstance(onednn._packed[owner._parameters["weight"]], onednn._Packed)
    torch.testing.assert_close(clip.encode(TEXT), before, atol=0, rtol=0)
    torch.testing.assert_close(clip.encode(TEXT), expected.encode(TEXT))
