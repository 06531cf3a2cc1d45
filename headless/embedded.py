"""Workflows inside other files: the text chunks of a PNG, the metadata of a safetensors file."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import BinaryIO

from ..sd2.errors import UnreadableFileError
from ..sd2.files.png_text import PNG_SIGNATURE, read_png_texts
from .workflow_errors import WorkflowError

KEYWORDS = ("prompt", "workflow")

LARGEST_HEADER = 100 << 20
"""Bytes; the limit of the safetensors library."""


def embedded_texts(path: Path) -> dict[str, str] | None:
    """The texts ``prompt`` (API format) and ``workflow`` (editor's) that a file carries.

    None if this is neither a PNG nor a safetensors file. Reads headers, not pixels or tensors.

    Raises:
        WorkflowError: for such a file that is damaged.
    """
    with path.open("rb") as file:
        start = file.read(9)
        if start[:8] == PNG_SIGNATURE:
            try:
                return read_png_texts(path, KEYWORDS)
            except UnreadableFileError as error:
                raise WorkflowError(str(error)) from error
        if len(start) == 9 and start[8:] == b"{" and start[:1] != b"{":
            # A safetensors file begins with the length of the JSON that follows.
            file.seek(0)
            found = _safetensors_texts(file, path)
        else:
            return None
    return {key: found[key] for key in KEYWORDS if key in found}


def _safetensors_texts(file: BinaryIO, path: Path) -> dict[str, str]:
    (length,) = struct.unpack("<Q", file.read(8))
    header = file.read(length) if length <= LARGEST_HEADER else b""
    try:
        metadata = json.loads(header)["__metadata__"] if len(header) == length else None
    except KeyError:
        metadata = {}
    except (ValueError, TypeError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        raise WorkflowError(f"{path}: neither a workflow nor a whole safetensors file")
    return {key: text for key, text in metadata.items() if isinstance(text, str)}
