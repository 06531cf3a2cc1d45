"""The account that is kept of a text's embeddings."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from sd2_clip.sd2.tokens.embedding_tokens import EmbeddingTokens
from sd2_clip.sd2.tokens.textual_inversion import Embedding, Unusable


def test_an_embedding_becomes_a_labelled_token_for_each_vector(tmp_path: Path) -> None:
    rows = torch.arange(8.0).reshape(2, 4)
    save_file({"emb_params": rows}, tmp_path / "e.safetensors")
    embeddings = EmbeddingTokens([str(tmp_path)], 4, "clip_h")
    found = embeddings.load("e")
    assert isinstance(found, Embedding)
    first, second = embeddings.use("e", found, 1.3, 7)
    assert [first.label, second.label] == ["embedding:e[1/2]", "embedding:e[2/2]"]
    assert (second.weight, second.word_id, second.kind) == (1.3, 7, "embedding")
    assert isinstance(second.value, torch.Tensor)
    assert torch.equal(second.value, rows[1])


def test_each_name_is_recorded_once(tmp_path: Path) -> None:
    save_file({"emb_params": torch.tensor([[1.0], [float("nan")]])}, tmp_path / "e.safetensors")
    embeddings = EmbeddingTokens([str(tmp_path)], 1, "clip_h")
    for word_id in (1, 2):
        found = embeddings.load("e")
        assert isinstance(found, Embedding)
        embeddings.use("e", found, 1.0, word_id)
        embeddings.ignore("gone", f"reason {word_id}")
    assert [(one.name, one.rows) for one in embeddings.used.values()] == [("e", 1)]
    assert [(one.name, one.reason) for one in embeddings.ignored.values()] == [("gone", "reason 1")]
    assert embeddings.warnings == ["embedding:e: 1 of its vectors contain nan or inf"]


def test_a_text_sees_one_state_of_the_folder(tmp_path: Path) -> None:
    embeddings = EmbeddingTokens([str(tmp_path)], 1, "clip_h")
    assert isinstance(embeddings.load("e"), Unusable)
    save_file({"emb_params": torch.ones(1, 1)}, tmp_path / "e.safetensors")
    assert isinstance(embeddings.load("e"), Unusable)


def test_without_folders_there_are_no_embeddings() -> None:
    embeddings = EmbeddingTokens(None, 4, "clip_h")
    assert not embeddings.enabled
    assert embeddings.names() == []
