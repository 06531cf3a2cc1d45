"""Embeddings in A1111's syntax, which need no prefix."""

import pytest
import tiny
import torch
from safetensors.torch import save_file
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
from sd2_clip.sd2.syntax.segments import Segment

TOKENIZER = SD2Tokenizer(embedding_directory=str(tiny.GOLDEN / "embeddings")).clip_h
TOKENIZER.embedding_size = tiny.CONFIG["hidden_size"]


def tokens(text, tokenizer=TOKENIZER, weight=1.0):
    return tokenizer.tokenize_a1111([(Segment(text, weight),)])


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("a kohya portrait", {"kohya": 4}),
        ("a KOHYA, multi", {"kohya": 4, "multi": 2}),
        ("embedding:kohya, x", {"kohya": 4}),
        ("kohyas", {}),
    ],
)
def test_embeddings_need_no_prefix(text, used):
    assert {one.name: one.rows for one in tokens(text).embeddings} == used


def test_a_name_with_a_blank_may_be_quoted_after_the_prefix(tmp_path):
    save_file({"emb_params": torch.zeros(1, 32)}, tmp_path / "my style.safetensors")
    tokenizer = SD2Tokenizer(embedding_directory=str(tmp_path)).clip_h
    tokenizer.embedding_size = 32
    for text in ("my style", "embedding:my style", 'embedding:"my style", cat'):
        assert [one.name for one in tokens(text, tokenizer).embeddings] == ["my style"]
    words = [row["text"] for row in tokens('embedding:"my style" x', tokenizer).rows()]
    assert not [word for word in words if '"' in word]


def test_the_longest_name_of_an_embedding_wins(tmp_path):
    for name in ("red", "red car"):
        save_file({"emb_params": torch.zeros(1, 32)}, tmp_path / f"{name}.safetensors")
    tokenizer = SD2Tokenizer(embedding_directory=str(tmp_path)).clip_h
    tokenizer.embedding_size = 32
    found = tokens("a red car, red", tokenizer)
    assert [one.name for one in found.embeddings] == ["red car", "red"]


def test_an_embedding_is_a_word_of_its_own_with_the_weight_around_it():
    [chunk] = tokens("a kohya cat", weight=1.3).chunks
    assert [(token.word_id, token.kind) for token in chunk[:7]] == [
        (0, "start"), (1, "token"), *[(2, "embedding")] * 4, (3, "token")
    ]  # fmt: skip
    assert {token.weight for token in chunk if token.word_id} == {1.3}


def test_an_embedding_of_another_width_stays_text_and_is_reported():
    found = tokens("a wrongwidth thing")
    assert "48 wide" in found.ignored[0].reason
    assert found.pairs() == TOKENIZER.tokenize("a wrongwidth thing").pairs()
