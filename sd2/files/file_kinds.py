"""Recognises files of weights and embeddings by suffix, and saved conditioning by its metadata."""

import json
from collections.abc import Mapping
from typing import Any

WEIGHT_SUFFIXES = (".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt")
"""Of model files, the safe format first."""

EMBEDDING_SUFFIXES = (".safetensors", ".pt", ".bin", ".png")
"""Of textual inversions, in the order in which a name is looked for."""

CONDITIONING_KEY = "sd2_clip"
CONDITIONING_FORMAT = "sd2_clip.conditioning/1"


def conditioning_record(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """How a saved conditioning is laid out; None if *metadata* is that of another file."""
    try:
        record = json.loads(metadata.get(CONDITIONING_KEY, ""))
    except (ValueError, RecursionError):
        return None
    is_conditioning = isinstance(record, dict) and record.get("format") == CONDITIONING_FORMAT
    return record if is_conditioning else None
