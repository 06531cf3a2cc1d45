"""Makes the files of SD2's tokenizer folder, as transformers' ``CLIPTokenizer`` reads them."""

from __future__ import annotations

import json
from typing import Any

from ..config import CONTEXT_LENGTH, PAD_TOKEN
from .bpe import END_TEXT, START_TEXT, clip_vocabulary


def tokenizer_files() -> dict[str, bytes]:
    """Return the contents of each file by its name.

    ``vocab.json`` and ``merges.txt`` are byte for byte those of every CLIP repository. The pad
    token stands in both files of settings: transformers reads it from the one or the other,
    depending on its version and on which is there, and SD2 pads with 0.
    """
    vocabulary = clip_vocabulary()
    merges = "".join(f"{first} {second}\n" for first, second in vocabulary.merges)
    start, end, pad = _added(START_TEXT), _added(END_TEXT), vocabulary.tokens[PAD_TOKEN]
    special = {"bos_token": start, "eos_token": end, "pad_token": pad, "unk_token": end}
    settings = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": CONTEXT_LENGTH,
        "tokenizer_class": "CLIPTokenizer",
    }
    typed = {
        name: {"__type": "AddedToken", **token} if isinstance(token, dict) else token
        for name, token in special.items()
    }
    return {
        "vocab.json": _json(vocabulary.ids),
        "merges.txt": f"#version: 0.2\n{merges}".encode(),
        "special_tokens_map.json": _json(special),
        "tokenizer_config.json": _json(typed | settings),
    }


def _added(text: str) -> dict[str, str | bool]:
    """Describe a special token: normalized, so that <|EndOfText|> in a text is the end token too.

    As plain text, transformers 5 would not normalize it.
    """
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    return {"content": text, **flags}


def _json(value: Any) -> bytes:
    """Serialize as transformers does."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
