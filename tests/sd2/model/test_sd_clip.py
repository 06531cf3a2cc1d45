"""The text encoder against ComfyUI's results, transformers' model, and what it promises."""

from dataclasses import replace

import pytest
import tiny
import torch
from safetensors.torch import load_file
from sd2_clip.sd2.errors import LayerError, OptionError
from sd2_clip.sd2.model import onednn
from sd2_clip.sd2.model.encode_cache import EncodeCache
from sd2_clip.sd2.model.encoder_setup import EncoderSetup
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

EXPECTED = load_file(tiny.GOLDEN / "encode.safetensors")


@pytest.fixture(scope="module")
def tokenizer() -> SD2Tokenizer:
    tokenizer = SD2Tokenizer(embedding_directory=str(tiny.GOLDEN / "embeddings"))
    tokenizer.clip_h.embedding_size = tiny.CONFIG["hidden_size"]
    return tokenizer


@pytest.fixture(params=["plain", "fused", "caching", "packed and caching"])
def model(request, monkeypatch, tmp_path):
    """The tiny encoder with all optimisations off, and with one after the other on."""
    if request.param == "plain":
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    if "packed" in request.param:
        monkeypatch.setattr(onednn, "PACK_AFTER", 1)
        model = tiny.mapped_text_encoder(tmp_path)
    else:
        model = tiny.text_encoder()
    if "caching" in request.param:
        model.clip_h.setup = replace(model.clip_h.setup, cache=EncodeCache())
        with torch.no_grad():
            yield model
    else:
        yield model


def chunk(*ids: int) -> list[int]:
    """Token ids between start and end, filled up with SD2's pads to 77."""
    return [49406, *ids, 49407] + [0] * (75 - len(ids))


@pytest.mark.parametrize("case", tiny.core_cases(), ids=lambda case: case["id"])
def test_encodes_as_comfyui_does(case, model, tokenizer):
    if case["layer"] is not None:
        model.set_clip_options({"layer": case["layer"]})
    cond, pooled = model.encode_token_weights(tokenizer.tokenize_with_weights(case["text"]))
    torch.testing.assert_close(cond, EXPECTED[f"{case['id']}.cond"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, EXPECTED[f"{case['id']}.pooled"], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def transformers_model() -> CLIPTextModelWithProjection:
    peer = CLIPTextModelWithProjection(CLIPTextConfig(**tiny.CONFIG)).train(False)
    missing, unexpected = peer.load_state_dict(tiny.state_dict(), strict=False)
    assert [name for name in missing + unexpected if "position_ids" not in name] == []
    return peer


@pytest.mark.parametrize("layer", range(-4, 0))
def test_hidden_layer_equals_transformers(layer, model, transformers_model):
    model.clip_layer(layer)
    ids = chunk(320, 1125, 539)
    z, _ = model.clip_h([ids])
    with torch.no_grad():
        states = transformers_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        expected = transformers_model.text_model.final_layer_norm(states[layer])
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=0)


def test_pooled_equals_transformers(model, transformers_model):
    ids = [chunk(320, 1125), chunk(*range(300, 375))]
    _, pooled = model.clip_h(ids)
    with torch.no_grad():
        expected = transformers_model(torch.tensor(ids)).text_embeds
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 2),
        ({"layer": "penultimate"}, 2),
        ({"layer": "last"}, 3),
        ({"layer": "hidden", "layer_idx": -4}, 0),
        ({"layer": "hidden", "layer_idx": 1}, 1),
    ],
    ids=lambda value: str(value),
)
def test_constructor_chooses_the_layer(options, number):
    model = tiny.text_encoder(**options)
    z, _ = model.clip_h([chunk(320)])
    every, _ = tiny.text_encoder(layer="all").clip_h([chunk(320)])
    torch.testing.assert_close(z, every[:, number])


@pytest.mark.parametrize(
    "options",
    [
        {"layer": "pooled"},
        {"layer": "hidden"},
        {"layer": "hidden", "layer_idx": 4},
        {"layer": "hidden", "layer_idx": -5},
        {"layer": "hidden", "layer_idx": 1.5},
        {"layer": "last", "layer_idx": -1},
        {"layer": "penultimate", "layer_idx": -2},
    ],
    ids=str,
)
def test_a_layer_that_cannot_be_is_an_error(options):
    with pytest.raises(LayerError):
        tiny.text_encoder(**options)


def test_the_error_for_a_layer_lists_the_choices(model):
    with pytest.raises(LayerError, match=r"-4 .first. to -1 .last., or 0 to 3"):
        model.clip_layer(-24)
    with pytest.raises(LayerError, match="last, penultimate, hidden, all"):
        tiny.text_encoder(layer="first")


def test_options_last_until_they_are_reset(model):
    model.set_clip_options({"layer": -1, "projected_pooled": False})
    _, unprojected = model.clip_h([chunk(320)])
    model.reset_clip_options()
    z, projected = model.clip_h([chunk(320)])
    torch.testing.assert_close(z, tiny.text_encoder().clip_h([chunk(320)])[0])
    projection = model.clip_h.transformer.text_projection
    torch.testing.assert_close(projected, projection(unprojected))


def test_projected_pooled_leaves_the_layer_alone():
    model = tiny.text_encoder(layer="hidden", layer_idx=-3)
    model.clip_layer(None)
    model.set_clip_options({"projected_pooled": False})
    assert model.clip_h.layer_number() == 3


def test_a_token_vector_takes_the_place_of_its_id(model):
    table = model.clip_h.transformer.get_input_embeddings().weight
    expected, expected_pooled = model.clip_h([chunk(320, 1125)])
    z, pooled = model.clip_h([[49406, table[320], {"data": table[1125]}, *chunk()[1:-2]]])
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(pooled, expected_pooled)


def test_a_vector_of_another_width_is_reported_and_left_out(model, caplog):
    z, _ = model.clip_h([[49406, torch.zeros(768), *chunk(320)[1:-1]]])
    torch.testing.assert_close(z, model.clip_h([chunk(320)])[0])
    assert "(768,) was ignored: this text encoder is 32 wide" in caplog.text


def test_more_tokens_than_positions_is_an_error(model):
    with pytest.raises(OptionError, match="78 tokens"):
        model.clip_h([[*chunk(320), 0]])


def test_no_chunks_give_the_empty_prompt(model, tokenizer):
    empty = model.encode_token_weights(tokenizer.tokenize_with_weights(""))
    torch.testing.assert_close(model.encode_token_weights({"h": []}), empty)


def test_a_prompt_of_many_chunks_is_encoded_chunk_by_chunk(model):
    chunks = [chunk(300 + i) for i in range(70)]
    cond, _ = model.encode_token_weights({"h": [[(t, 1.0) for t in c] for c in chunks]})
    assert cond.shape == (1, 77 * 70, 32)
    torch.testing.assert_close(cond[0, 77 * 50 : 77 * 51], model.clip_h([chunks[50]])[0][0])


def test_half_precision_storage_computes_in_float32(model):
    half = tiny.text_encoder(dtype=torch.float16)
    assert half.clip_h.transformer.text_projection.weight.dtype == torch.float16
    torch.testing.assert_close(half.clip_h([chunk(320)]), model.clip_h([chunk(320)]))


def test_a_layer_the_file_did_not_have_is_reported_once(caplog):
    model = tiny.short_text_encoder()
    model.clip_layer(-1)
    for _ in range(2):
        model.clip_h.encode_chunks([chunk(320)], 0)
    assert [record.message for record in caplog.records] == [
        "Layer 4 was requested, but the file has only 3 layers: the result is that of layer 3, "
        "SD2's default."
    ]


def test_a_pooled_vector_that_the_file_cannot_give_is_reported_once(caplog):
    model = tiny.short_text_encoder()
    for _ in range(2):
        model.clip_h([chunk(320)])
    assert [record.message for record in caplog.records] == [
        "The pooled vector comes from layer 3 and is not projected: the file has no layer 4 and no "
        "text projection."
    ]


def test_without_a_pooled_vector_nothing_is_reported(caplog):
    tiny.short_text_encoder().clip_h.encode_chunks([chunk(320)], 0)
    tiny.text_encoder().clip_h([chunk(320)])
    assert caplog.records == []


@pytest.mark.parametrize("full_names", [False, True])
def test_loading_other_weights_drops_the_facts_about_the_previous(full_names):
    model = tiny.short_text_encoder()
    model.clip_h.setup = replace(model.clip_h.setup, source="a file")
    tensors = tiny.state_dict()
    if full_names:
        model.load_state_dict({f"clip_h.transformer.{n}": t for n, t in tensors.items()}, False)
    else:
        model.load_sd(tensors)
    assert model.clip_h.setup == EncoderSetup()
    assert model.source is None


def test_placeholders_stay_until_they_are_loaded():
    model = tiny.short_text_encoder()
    model.load_sd({n: t for n, t in tiny.state_dict().items() if ".layers.0." in n})
    assert model.clip_h.setup == tiny.SHORT_SETUP
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()})
    assert model.clip_h.setup == tiny.SHORT_SETUP
    model.load_sd({"text_projection.weight": torch.ones(32, 32)})
    assert model.clip_h.setup == replace(tiny.SHORT_SETUP, placeholder_projection=False)


def test_torchs_default_type_changes_no_weighted_prompt(model):
    pairs = {"h": [[(token, 1.3) for token in chunk(320, 1125)]]}
    expected, _ = model.encode_token_weights(pairs)
    before = torch.get_default_dtype()
    for dtype in (torch.float64, torch.float16):
        torch.set_default_dtype(dtype)
        try:
            found, _ = model.encode_token_weights(pairs)
        finally:
            torch.set_default_dtype(before)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_result_that_is_not_finite_is_logged_once_with_its_cause(caplog):
    model = tiny.text_encoder()
    layers = model.clip_h.transformer.text_model.encoder.layers
    layers[1].mlp.fc1.weight.data.view(-1)[99] = float("nan")
    for _ in range(2):
        model.encode_token_weights({"h": [[(token, 1.0) for token in chunk(320)]]})
    [message] = [record.message for record in caplog.records]
    assert "NaN or infinity, which makes black pictures" in message
    assert "text_model.encoder.layers.1.mlp.fc1.weight" in message


def test_a_token_weight_that_is_too_large_is_logged(caplog):
    tokens = [(token, 3e38) for token in chunk(320)]
    tiny.text_encoder().encode_token_weights({"h": [tokens]})
    assert "a token weight is too large" in caplog.text
