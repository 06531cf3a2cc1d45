"""Embeddings of captions are what the handle and other programs make of them."""

import json
import pickle

import numpy as np
import pytest
import tiny
import torch
from sd2_clip.dataset import CaptionEncoder
from sd2_clip.sd2.errors import NotFiniteError, OptionError
from sd2_clip.sd2.model.sd_clip import SDClipModel
from sd2_clip.sd2.tokens.bpe import clip_vocabulary
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

CAPTIONS = ["a cat", "", "a (very:1.3) big [dog]", "word " * 100, "Ωmega 東京 🐈, embedding:x"]
FILE = tiny.GOLDEN / "tiny_text_encoder.safetensors"


def encoder(**options) -> CaptionEncoder:
    options = {"device": "cpu", "dtype": "fp32", "store": "fp32"} | options
    return CaptionEncoder(FILE, model_options=tiny.MODEL_OPTIONS, **options)


def test_a_caption_is_encoded_as_plain_text_in_one_chunk():
    ours = encoder(pooled=True)
    found = ours.encode(ours.tokenize(CAPTIONS))
    assert found["caption_latents"].shape == (5, 77, 32)
    for number in (0, 1, 2):
        tokens = ours.clip.tokenize(CAPTIONS[number], disable_weights=True)
        cond, pooled = ours.clip.encode_from_tokens(tokens, return_pooled=True)
        torch.testing.assert_close(found["caption_latents"][number], cond[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(found["caption_pooled"][number], pooled[0], atol=1e-5, rtol=0)


def test_the_result_is_that_of_diffusers_text_encoder():
    # SD2's pipelines: padded with "!", cut to 77, last_hidden_state of the 23-layer encoder.
    ours = encoder(pooled=True)
    ids = ours.tokenize(CAPTIONS)
    peer = CLIPTextModelWithProjection(CLIPTextConfig(**tiny.CONFIG)).train(False)
    peer.load_state_dict(tiny.state_dict(), strict=False)
    rows = [[49406, *one[:75], 49407] + [0] * (75 - len(one)) for one in ids]
    with torch.no_grad():
        out = peer(torch.tensor(rows), output_hidden_states=True)
        states = peer.text_model.final_layer_norm(out.hidden_states[-2])
    found = ours.encode(ids)
    torch.testing.assert_close(found["caption_latents"], states, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["caption_pooled"], out.text_embeds, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("layer", "layer_idx"), [("last", None), ("hidden", -3)])
def test_another_layer(layer, layer_idx):
    ours = encoder(layer=layer, layer_idx=layer_idx)
    reference = encoder().clip
    reference.clip_layer(-1 if layer_idx is None else layer_idx)
    found = ours.encode(ours.tokenize(["a cat"]))["caption_latents"]
    torch.testing.assert_close(found, reference.encode("a cat"), atol=1e-5, rtol=0)


def test_batches_of_a_pipeline():
    ours = encoder(store="fp16", column="text", pooled=True)
    batch = {"text": np.array(CAPTIONS, dtype=object), "id": np.arange(5)}
    found = ours(batch)
    assert found["id"] is batch["id"]
    assert (found["caption_latents"].dtype, found["caption_pooled"].shape) == ("float16", (5, 32))
    assert found["token_count"].tolist()[:2] == [2, 0]
    assert found["truncated"].tolist() == [False, False, False, True, False]
    assert len(set(found["content_id"])) == 5
    expected = ours.encode(ours.tokenize(CAPTIONS))["caption_latents"].numpy()
    np.testing.assert_array_equal(found["caption_latents"], expected)


def test_equal_captions_of_a_batch_are_encoded_once():
    ours = encoder()
    encoded = []
    encode = ours.encode_chunks
    ours.encode_chunks = lambda chunks: encoded.extend(chunks) or encode(chunks)
    found = ours({"caption": ["a cat", "A  CAT", "word " * 80, "word " * 75 + "else", "a dog"]})
    assert len(encoded) == 3
    first, again, long, longer, dog = found["content_id"]
    assert first == again != dog
    assert long == longer
    np.testing.assert_array_equal(found["caption_latents"][0], found["caption_latents"][1])
    assert ours({"caption": ["a dog"]})["content_id"][0] == dog


def test_an_arrow_table_gets_tensors_and_the_settings():
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
    ours = encoder(store="fp16", column="text")
    table = pyarrow.table({"text": CAPTIONS, "id": range(5)})
    found = ours(table)
    assert found["id"] == table["id"]
    assert found["caption_latents"].type == pyarrow.fixed_shape_tensor(pyarrow.float16(), (77, 32))
    latents = found["caption_latents"].combine_chunks().to_numpy_ndarray()
    np.testing.assert_array_equal(latents, ours({"text": CAPTIONS})["caption_latents"])
    assert json.loads(found.schema.metadata[b"sd2_clip"]) == ours.settings()


@pytest.mark.parametrize(
    "text", ["wow!!", "hello!world", "! ! !a", "a !? b!", "no marks", "!", "ÀÉ! x!!!", ""]
)
def test_diffusers_tokenizer_reads_exclamation_marks_as_padding(text, tokenizer_folder):
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(tokenizer_folder, pad_token="!")
    (ids,) = encoder(tokenizer="diffusers").tokenize([text])
    assert [49406, *ids, 49407] == theirs(text).input_ids
    if "!" not in text:
        assert encoder().tokenize([text]) == [ids]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """CLIP's vocabulary as the tokenizer folder of a diffusers repository has it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = clip_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary.ids), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in vocabulary.merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_an_encoder_is_sent_to_workers_without_its_weights():
    ours = encoder()
    ours.encode(ours.tokenize(["a cat"]))
    data = pickle.dumps(ours)
    assert len(data) < 5000
    twin = pickle.loads(data)
    ids = ours.tokenize(CAPTIONS)
    torch.testing.assert_close(twin.encode(ids), ours.encode(ids), atol=0, rtol=0)


def test_numbers_that_are_none_are_never_given():
    ours = encoder()
    weight = ours.clip.cond_stage_model.clip_h.transformer.text_model.final_layer_norm.weight
    weight.data.fill_(6e4)
    ours.encode(ours.tokenize(["a cat"]))
    half = encoder(store="fp16")
    half.clip.cond_stage_model.clip_h.transformer.text_model.final_layer_norm.weight.data.fill_(6e4)
    with pytest.raises(NotFiniteError, match=r"first ''.*too large for fp16: store bf16 or fp32"):
        half.encode(half.tokenize(["", "a dog"]))
    with pytest.raises(NotFiniteError, match=r"2 of 2 captions .* first 'a cat'"):
        half.encode(half.tokenize(["a cat", "a dog"]))


def test_a_damaged_weight_is_named():
    ours = encoder()
    layers = ours.clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers
    layers[1].mlp.fc1.weight.data.view(-1)[99] = float("nan")
    with pytest.raises(NotFiniteError, match=r"first 'a cat'.*layers\.1\.mlp\.fc1\.weight"):
        ours.encode(ours.tokenize(["a cat"]))


def test_what_cannot_be_is_said():
    with pytest.raises(OptionError, match=r"no column 'caption' of captions\. Columns: text, id"):
        encoder()({"text": ["a"], "id": [1]})
    with pytest.raises(OptionError, match="numpy has no bf16"):
        encoder(store="bf16")({"caption": ["a"]})
    with pytest.raises(OptionError, match="layer 'all'"):
        encoder(layer="all")
    with pytest.raises(OptionError, match=r"store 'auto' is unknown\. Choose fp16, bf16, fp32"):
        encoder(store="auto")
    with pytest.raises(OptionError, match=r"tokenizer 'bpe' is unknown\. Choose one of openclip"):
        encoder(tokenizer="bpe")
    with pytest.raises(OptionError, match="needs layer_idx"):
        encoder(layer="hidden")
    with pytest.raises(OptionError, match="is one text, not a list"):
        encoder()({"caption": "a cat"})
    for value in (b"a cat", 5, ["x"]):
        with pytest.raises(OptionError, match="is not a text but"):
            encoder()({"caption": [value]})


def test_what_a_table_has_for_none_is_the_empty_caption():
    ours = encoder(pooled=True)
    found = ours({"caption": ["", None, float("nan"), np.nan]})
    assert found["token_count"].tolist() == [0, 0, 0, 0]
    for row in found["caption_latents"][1:]:
        np.testing.assert_array_equal(row, found["caption_latents"][0])
    empty = ours({"caption": []})
    assert empty["caption_latents"].shape == (0, 77, 32)
    assert empty["caption_pooled"].shape == (0, 32)


def test_captions_are_encoded_as_many_at_a_time_as_is_said(monkeypatch):
    ours = encoder(batch_size=5)
    sizes = []
    embed = SDClipModel.embed
    monkeypatch.setattr(
        SDClipModel, "embed", lambda self, chunks: sizes.append(len(chunks)) or embed(self, chunks)
    )
    result = ours({"caption": [f"a cat {number}" for number in range(12)]})
    assert sizes == [5, 5, 2]
    assert len(result["caption_latents"]) == 12
    assert ours.settings()["batch_size"] == 5
    assert encoder().settings()["batch_size"] == 32


def test_a_batch_that_is_too_small_to_be_computed_alike_is_refused():
    with pytest.raises(OptionError, match="must have 4 captions or more, not 3"):
        encoder(batch_size=3)
