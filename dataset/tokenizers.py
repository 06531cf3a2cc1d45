"""The two ways in which SD2's captions become token ids: OpenCLIP's and diffusers'.

They differ in exclamation marks alone. SD2 was trained with OpenCLIP's tokenizer, where ``!`` is
a token of its own and ``!!`` another. The tokenizer folder of SD2's diffusers repositories makes
``!`` its padding token, so that transformers reads every ``!`` of a text as padding, id 0.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

from ..sd2.errors import OptionError
from ..sd2.model.token_weights import END_TOKEN, PAD_TOKEN, START_TOKEN
from ..sd2.tokens.bpe import clip_tokenizer
from ..sd2.tokens.sd_tokenizer import CONTEXT_LENGTH

TOKENIZERS = ("openclip", "diffusers")

MAX_TEXT_TOKENS = CONTEXT_LENGTH - 2
"""Tokens of a caption that fit between start and end; SD2 was trained with the rest cut off."""

DIFFUSERS_PAD = "!"


def pad_chunk(ids: Sequence[int]) -> list[int]:
    """Build a chunk of 77 tokens: start, *ids* cut to 75, end, and padding."""
    content = [START_TOKEN, *ids[:MAX_TEXT_TOKENS], END_TOKEN]
    return content + [PAD_TOKEN] * (CONTEXT_LENGTH - len(content))


def tokenize(texts: Sequence[str], tokenizer: str) -> list[list[int]]:
    """Return the token ids of each text, uncut, without start and end."""
    if tokenizer == "openclip":
        return clip_tokenizer().encode_batch(texts)
    if tokenizer != "diffusers":
        raise OptionError(
            f"tokenizer {tokenizer!r} is unknown. Choose one of {', '.join(TOKENIZERS)}."
        )
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
