"""Recognises files of weights and embeddings by suffix, and saved conditioning by its header."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import SD2ClipError
from .bounded_json import JsonError, parse_json

WEIGHT_SUFFIXES = (".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt")
"""Of model files, the safe format first."""

EMBEDDING_SUFFIXES = (".safetensors", ".pt", ".bin", ".png")
"""Of textual inversions, in the order in which a name is looked for."""

CONDITIONING_KEY = "sd2_clip"
CONDITIONING_FORMAT = "sd2_clip.conditioning/1"

CORE_TENSOR = "conditioning"
"""The tensor that ComfyUI's Save Conditioning writes, and all that its Load Conditioning needs."""

CORE_OPTIONS_KEY = "conditioning_options"
"""Where ComfyUI's Save Conditioning writes the options that are not tensors."""

USE_CONDITIONING_LOADER = (
    "saved conditioning. Use Load SD2 Conditioning or ComfyUI's Load Conditioning"
)


def conditioning_record(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """How a saved conditioning is laid out; None if *metadata* is that of another file."""
    try:
        record = parse_json(metadata.get(CONDITIONING_KEY, ""))
    except JsonError:
        return None
    is_conditioning = isinstance(record, dict) and record.get("format") == CONDITIONING_FORMAT
    return record if is_conditioning else None


def is_conditioning(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bool:
    """Tell whether a file is saved conditioning, of ours or of ComfyUI's.

    *shapes* are those of its tensors. A textual inversion may have any name, but no third
    dimension.
    """
    return (
        CORE_OPTIONS_KEY in metadata
        or conditioning_record(metadata) is not None
        or len(shapes.get(CORE_TENSOR, ())) > 2
    )


def is_conditioning_file(path: Path, smallest: int = 0) -> bool:
    """Tell whether *path* is saved conditioning; its header is read again only if it changed.

    A file of less than *smallest* bytes is not, and not opened.
    """
    try:
        stat = path.stat()
        return stat.st_size >= smallest and _is_conditioning_file(
            path, (stat.st_mtime_ns, stat.st_size)
        )
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _is_conditioning_file(path: Path, version: tuple[int, ...]) -> bool:
    """Read a header; *version* is unused, but makes an edited file a new entry of the cache."""
    if path.suffix.lower() != ".safetensors":
        return False
    from .safetensors_header import read_safetensors_header  # here: lists of files need no more

    try:
        locations, metadata = read_safetensors_header(path)
    except SD2ClipError:
        return False
    return is_conditioning({name: one.shape for name, one in locations.items()}, metadata)
