"""A tokenizer that finds embeddings."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer


@pytest.fixture
def with_embeddings(tmp_path: Path) -> SD2Tokenizer:
    """Knows ``one`` (1 vector), ``nine`` (9), ``sd1`` (768 wide) and two odd names."""
    for name, rows, width in (("one", 1, 4), ("nine", 9, 4), ("sd1", 1, 768),
                              ("my style", 1, 4), ("ink (old)", 1, 4)):  # fmt: skip
        save_file({"emb_params": torch.ones(rows, width)}, tmp_path / f"{name}.safetensors")
    tokenizer = SD2Tokenizer([str(tmp_path)])
    tokenizer.clip_h.embedding_size = 4
    return tokenizer
