"""SD2's tokenizers under ComfyUI's names."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from .config import SD2_CONFIG
from .tokens.sd_tokenizer import SD1Tokenizer, SDTokenizer


class SD2ClipHTokenizer(SDTokenizer):
    """Tokenizes for OpenCLIP ViT-H/14: pads with 0, embeddings 1024 wide under ``clip_h``."""

    def __init__(
        self,
        tokenizer_path: str | os.PathLike[str] | None = None,
        embedding_directory: str | os.PathLike[str] | Sequence[str] | None = None,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            tokenizer_path,
            pad_with_end=False,
            embedding_directory=embedding_directory,
            embedding_size=SD2_CONFIG.hidden_size,
            embedding_key="clip_h",
            tokenizer_data=tokenizer_data,
        )


class SD2Tokenizer(SD1Tokenizer):
    """The tokenizer of an SD2 CLIP: returns chunks under ``"h"``, holds ``clip_h``."""

    clip_h: SD2ClipHTokenizer

    def __init__(
        self,
        embedding_directory: str | os.PathLike[str] | Sequence[str] | None = None,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            embedding_directory,
            tokenizer_data,
            clip_name="h",
            tokenizer=SD2ClipHTokenizer,
        )
