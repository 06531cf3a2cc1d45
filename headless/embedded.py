"""Workflows inside other files: the text chunks of a PNG, the metadata of a safetensors file."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from .workflow_errors import WorkflowError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

LARGEST_TEXT = 64 << 20
"""Bytes. A workflow is far below; this keeps a compressed chunk from unfolding without end."""

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
            file.seek(8)
            found = _png_texts(file, path)
        elif len(start) == 9 and start[8:] == b"{" and start[:1] != b"{":
            # A safetensors file begins with the length of the JSON that follows.
            file.seek(0)
            found = _safetensors_texts(file, path)
        else:
            return None
    return {key: found[key] for key in ("prompt", "workflow") if key in found}


def _png_texts(file: BinaryIO, path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            return texts
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, 1)  # the data, and its checksum
            continue
        data = file.read(min(length, LARGEST_TEXT))
        if len(data) < length:
            break
        file.seek(4, 1)
        try:
            keyword, text = _png_text(kind, data)
        except (ValueError, zlib.error) as error:
            raise WorkflowError(f"{path}: a text chunk of this PNG is damaged: {error}") from None
        texts.setdefault(keyword, text)
    raise WorkflowError(f"{path}: this PNG ends before its end; it is damaged")


def _png_text(kind: bytes, data: bytes) -> tuple[str, str]:
    """Keyword and text of one chunk, as the PNG specification lays them out."""
    keyword, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return keyword.decode("latin-1"), _decode_text(rest)
    if kind == b"zTXt":
        return keyword.decode("latin-1"), _decode_text(_inflate(rest[1:]))
    compressed = rest[:1] == b"\1"
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, rest = rest.partition(b"\0")
    return keyword.decode("latin-1"), (_inflate(rest) if compressed else rest).decode("utf-8")


def _decode_text(data: bytes) -> str:
    """Latin-1 by the specification; some writers put UTF-8 there."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, LARGEST_TEXT)
    if not inflater.eof:
        raise ValueError("it is cut off, or larger than any workflow")
    return text


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
