"""Reads the text chunks of a PNG file; pixels are skipped."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from ..errors import UnreadableFileError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_TEXT_BYTES = 64 << 20
"""Of one text. Workflows and embeddings are far smaller; a compressed bomb is not."""


def read_png_texts(path: Path) -> dict[str, str]:
    """The text of each keyword; the first one counts. UnreadableFileError for a damaged file."""
    texts: dict[str, str] = {}
    with path.open("rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return texts
            if kind not in (b"tEXt", b"zTXt", b"iTXt"):
                file.seek(length + 4, 1)  # the data, and its checksum
                continue
            data = file.read(min(length, MAX_TEXT_BYTES))
            if len(data) < length:
                break
            file.seek(4, 1)
            try:
                keyword, text = _parse_chunk(kind, data)
            except (ValueError, zlib.error) as error:
                raise UnreadableFileError(
                    f"{path}: a text chunk of this PNG is damaged: {error}."
                ) from error
            texts.setdefault(keyword, text)
    raise UnreadableFileError(f"{path}: this PNG is damaged: it ends before its last chunk.")


def _parse_chunk(kind: bytes, data: bytes) -> tuple[str, str]:
    """Keyword and text of one chunk, laid out as the PNG specification says."""
    keyword, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return keyword.decode("latin-1"), _decode(rest)
    if kind == b"zTXt":
        return keyword.decode("latin-1"), _decode(_inflate(rest[1:]))
    compressed = rest[:1] == b"\1"
    _language, _, rest = rest[2:].partition(b"\0")
    _translated, _, rest = rest.partition(b"\0")
    return keyword.decode("latin-1"), (_inflate(rest) if compressed else rest).decode("utf-8")


def _decode(data: bytes) -> str:
    """Latin-1 by the specification; some writers store UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, MAX_TEXT_BYTES)
    if not inflater.eof:
        raise ValueError(f"it is truncated, or larger than {MAX_TEXT_BYTES:,} bytes")
    return text
