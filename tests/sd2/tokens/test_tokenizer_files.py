"""The tokenizer folder of a diffusers pipeline, against published files and transformers."""

import hashlib
import json
import logging

import pytest
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
from sd2_clip.sd2.tokens.tokenizer_files import tokenizer_files
from transformers import AutoTokenizer, CLIPTokenizer

# Of the files in openai/clip-vit-large-patch14 and in every SD pipeline.
PUBLISHED = {
    "vocab.json": "e089ad92ba36837a0d31433e555c8f45fe601ab5c221d4f607ded32d9f7a4349",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}

TEXTS = ["", "a photo of a cat", "Hello, World 3.5 don't  \n x", "猫 émigré", "<|EndOfText|> x"]


@pytest.fixture
def folder(tmp_path):
    for name, content in tokenizer_files().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_vocabulary_is_byte_for_byte_the_published_one(name):
    assert hashlib.sha256(tokenizer_files()[name]).hexdigest() == PUBLISHED[name]


@pytest.mark.parametrize("absent", [None, "special_tokens_map.json", "tokenizer_config.json"])
def test_transformers_pads_with_0_even_if_a_file_of_settings_got_lost(absent, folder):
    if absent is not None:
        (folder / absent).unlink()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("!", 0)
    ids = tokenizer("a cat", padding="max_length", max_length=6).input_ids
    assert ids == [49406, 320, 2368, 49407, 0, 0]


@pytest.mark.parametrize("loader", [CLIPTokenizer, AutoTokenizer], ids=lambda one: one.__name__)
@pytest.mark.parametrize("text", TEXTS)
def test_transformers_reads_the_ids_that_this_package_does(text, loader, folder, caplog):
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_text_model"}))
    with caplog.at_level(logging.WARNING):
        tokenizer = loader.from_pretrained(folder)
    ids = tokenizer(text, padding="max_length", truncation=True).input_ids
    [chunk] = SD2Tokenizer().tokenize_with_weights(text)["h"]
    assert ids == [token for token, _ in chunk]
    assert caplog.text == ""


def test_transformers_reads_every_exclamation_mark_as_the_pad(folder):
    """Its own doing, with the published files too; the pages say so."""
    ids = CLIPTokenizer.from_pretrained(folder)("wow!!!").input_ids
    assert ids == [49406, 2781, 0, 0, 0, 49407]
