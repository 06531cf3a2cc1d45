"""The two ways in which SD2's captions become token ids: OpenCLIP's and diffusers'.

They differ in exclamation marks alone. SD2 was trained with OpenCLIP's tokenizer, where ``!`` is
a token of its own and ``!!`` another. The tokenizer folder of SD2's diffusers repositories makes
``!`` its padding token, so that transformers reads every ``!`` of a text as padding, id 0.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..sd2.config import PAD_TOKEN
from ..sd2.errors import check_choice
from ..sd2.tokens.bpe import clip_tokenizer

TOKENIZERS = ("openclip", "diffusers")

DIFFUSERS_PAD = "!"

TEXT_READING = 1
"""Version of how a caption becomes a chunk; another one is another setting."""


def tokenize(texts: Sequence[str], tokenizer: str) -> list[list[int]]:
    """Return the token ids of each text, uncut, without start and end."""
    if tokenizer == "openclip":
        return clip_tokenizer().encode_batch(texts)
    check_choice("tokenizer", tokenizer, TOKENIZERS)
    pieces = [text.split(DIFFUSERS_PAD) for text in texts]
    encoded = iter(clip_tokenizer().encode_batch([piece for some in pieces for piece in some]))
    result = []
    for some in pieces:
        ids = list(next(encoded))
        for _ in some[1:]:
            ids += [PAD_TOKEN, *next(encoded)]
        result.append(ids)
    return result


def content_id(chunk: Sequence[int]) -> str:
    """Identify a chunk by its token ids: 32 hexadecimal digits, equal for equal chunks."""
    return hashlib.sha256(array("i", chunk).tobytes()).hexdigest()[:32]


@dataclass(frozen=True)
class CaptionTokenizer:
    """Reads captions as an encoder does, and computes nothing: for a first pass over a data set."""

    tokenizer: str

    def settings(self) -> dict[str, Any]:
        """Return all that the tokens depend on as JSON values."""
        return {"tokenizer": self.tokenizer, "text_reading": TEXT_READING}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, uncut, without start and end."""
        return tokenize(texts, self.tokenizer)
