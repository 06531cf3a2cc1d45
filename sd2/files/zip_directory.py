"""Bounds the directory of a zip file before it is read: a member costs twenty times its entry."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from ..errors import UnreadableFileError
from .limits import MAX_ZIP_DIRECTORY_BYTES

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_BYTES = 20
_LONGEST_COMMENT = 0xFFFF


def check_zip_directory(path: Path, file: BinaryIO) -> None:
    """Raise UnreadableFileError if the directory is larger than that of any model.

    What is damaged is left for zipfile to say.
    """
    size = _directory_size(file)
    if size > MAX_ZIP_DIRECTORY_BYTES:
        raise UnreadableFileError(
            f"{path}: its zip directory has {size:,} bytes, and a model's has at most "
            f"{MAX_ZIP_DIRECTORY_BYTES:,}. Choose another file."
        )


def _directory_size(file: BinaryIO) -> int:
    """The size that the end of the file states; 0 if it states none."""
    length = file.seek(0, os.SEEK_END)
    most = _LOCATOR_BYTES + _END_64.size + _END.size + _LONGEST_COMMENT
    file.seek(max(length - most, 0))
    tail = file.read(most)
    # As zipfile: at the very end of the file, or else the last one before a comment.
    at = len(tail) - _END.size
    if at < 0 or not (tail.startswith(b"PK\5\6", at) and tail.endswith(b"\0\0")):
        at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        return 0
    size: int = _END.unpack_from(tail, at)[5]
    before = at - _LOCATOR_BYTES - _END_64.size
    if before >= 0 and tail.startswith(b"PK\6\7", at - _LOCATOR_BYTES):
        end = _END_64.unpack_from(tail, before)
        if end[0] == b"PK\6\6":
            size = max(size if size != 0xFFFFFFFF else 0, end[8])
    return size
