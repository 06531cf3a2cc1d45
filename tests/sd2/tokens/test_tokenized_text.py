"""What is reported about a text's tokens."""

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> SD2Tokenizer:
    return SD2Tokenizer()


def test_report_counts_and_names(with_embeddings: SD2Tokenizer) -> None:
    text = with_embeddings.tokenize("a (cat:30) embedding:nine embedding:sd1 embedding:none")
    assert text.report().splitlines()[:3] == [
        "11 tokens, 1 chunk of 77: conditioning of 77 rows",
        "embeddings: nine (9 vectors)",
        "ignored: embedding:sd1: its vectors are 768 wide (CLIP-L of SD 1.x, SDXL, SD3 "
        "and Flux); this text encoder takes 4",
    ]
    assert "ignored: embedding:none: no file of this name" in text.report()
    assert "weight 30" in text.report()


def test_used_embeddings_are_listed_once(with_embeddings: SD2Tokenizer) -> None:
    (used,) = with_embeddings.tokenize("embedding:one embedding:one").embeddings
    assert (used.name, used.rows, len(used.sha256)) == ("one", 1, 64)


def test_words_cut_by_a_chunks_end_are_named(tokenizer: SD2Tokenizer) -> None:
    text = tokenizer.tokenize("a " * 73 + "supercalifragilistic")
    assert text.cut_words() == ["supercali|fragilistic"]
    assert "supercali|fragilistic" in text.report()


def test_a_cut_between_words_is_none(tokenizer: SD2Tokenizer) -> None:
    assert tokenizer.tokenize("cat " * 200).cut_words() == []


def test_an_embedding_cut_by_a_chunks_end_is_named(with_embeddings: SD2Tokenizer) -> None:
    (cut,) = with_embeddings.tokenize("a " * 70 + "embedding:nine").cut_words()
    assert cut == "embedding:nine[5/9] | embedding:nine[6/9]"


def test_rows_are_json_and_in_order(with_embeddings: SD2Tokenizer) -> None:
    rows = json.loads(json.dumps(with_embeddings.tokenize("(Łódź:1.5) embedding:one").rows()))
    assert len(rows) == 77
    assert rows[1] == {
        "id": 40419, "text": "ł", "weight": 1.5, "chunk": 0, "word": 1, "kind": "token",
        "ends_word": False,
    }  # fmt: skip
    embedding = next(row for row in rows if row["kind"] == "embedding")
    assert (embedding["id"], embedding["text"]) == (None, "embedding:one[1/1]")
    assert [row["kind"] for row in rows if row["word"] == 0] == ["start", "end", *["pad"] * 69]


def test_ignored_embeddings_are_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = SD2Tokenizer(str(tmp_path))
    text = "embedding:logged_wide embedding:logged_gone"
    save_file({"emb_params": torch.ones(2, 12)}, tmp_path / "logged_wide.safetensors")
    with caplog.at_level(logging.WARNING, "sd2_clip"):
        ignored = tokenizer.tokenize(text).ignored  # shown, perhaps while it is typed
        assert [item.name for item in ignored] == ["logged_wide", "logged_gone"]
        assert caplog.records == []
        for _ in range(3):
            tokenizer.tokenize_with_weights(text)  # to be encoded
    assert [record.args[0] for record in caplog.records] == ["logged_wide", "logged_gone"]
