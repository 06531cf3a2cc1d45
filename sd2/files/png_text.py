"""Reads the text chunks of a PNG file; pixels are skipped."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from pathlib import Path

from ..errors import UnreadableFileError
from .limits import MAX_PNG_CHUNKS, MAX_PNG_TEXT_BYTES
from .regular_file import check_regular_file

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

MAX_KEYWORD_BYTES = 79
"""Of the format itself."""


def read_png_texts(path: Path, keywords: Collection[str]) -> dict[str, str]:
    """Read the text of each of *keywords* that is there; the first one counts.

    Other texts are skipped, and all that are read share one budget of memory.

    Raises:
        UnreadableFileError: for a damaged file.
    """
    check_regular_file(path)
    texts: dict[str, str] = {}
    budget = MAX_PNG_TEXT_BYTES
    with path.open("rb") as file:
        file.seek(len(PNG_SIGNATURE))
        for _ in range(MAX_PNG_CHUNKS):
            head = file.read(8)
            if len(head) < 8:
                break
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return texts
            after = file.tell() + length + 4  # the data, and its checksum
            if kind in (b"tEXt", b"zTXt", b"iTXt"):
                start = file.read(min(length, MAX_KEYWORD_BYTES + 1))
                keyword = start.partition(b"\0")[0].decode("latin-1")
                if keyword in keywords and keyword not in texts:
                    if length > budget:
                        raise _too_large(path)
                    data = start + file.read(length - len(start))
                    if len(data) < length:
                        break
                    text = _parse_chunk(path, kind, data, budget)
                    budget -= len(text)
                    texts[keyword] = text
            file.seek(after)
    raise UnreadableFileError(f"{path}: this PNG is damaged: it ends before its last chunk.")


def _parse_chunk(path: Path, kind: bytes, data: bytes, budget: int) -> str:
    """Return the text of one chunk, laid out as the PNG specification says."""
    _keyword, _, rest = data.partition(b"\0")
    is_compressed = kind == b"zTXt"
    if kind == b"iTXt":
        is_compressed = rest[:1] == b"\1"
        _language, _, rest = rest[2:].partition(b"\0")
        _translated, _, rest = rest.partition(b"\0")
    elif is_compressed:
        rest = rest[1:]
    try:
        if is_compressed:
            rest = _inflate(path, rest, budget)
        return rest.decode("utf-8") if kind == b"iTXt" else _decode(rest)
    except (ValueError, zlib.error) as error:
        raise UnreadableFileError(
            f"{path}: a text chunk of this PNG is damaged: {error}."
        ) from error


def _decode(data: bytes) -> str:
    """Latin-1 by the specification; some writers store UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _inflate(path: Path, data: bytes, budget: int) -> bytes:
    inflater = zlib.decompressobj()
    text = inflater.decompress(data, budget + 1)
    if len(text) > budget:
        raise _too_large(path)
    if not inflater.eof:
        raise ValueError("it is truncated")
    return text


def _too_large(path: Path) -> UnreadableFileError:
    return UnreadableFileError(
        f"{path}: the texts of this PNG are larger than {MAX_PNG_TEXT_BYTES:,} bytes."
    )
