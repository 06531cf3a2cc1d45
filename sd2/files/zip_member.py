"""Reads members of zip files, after comparing their own header with the zip directory.

Programs that follow the one see other contents than those that follow the other, if they differ.
Only what ``torch.save`` and torch's own reader know: stored members, and deflated ones.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from .limits import MAX_ZIP_DIRECTORY_BYTES

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR, _PATCH, _STRONG, _MASKED = 1, 1 << 3, 1 << 5, 1 << 6, 1 << 13
_UNREADABLE = _ENCRYPTED | _PATCH | _STRONG | _MASKED
_ZIP64_ID = 1
_IN_ZIP64 = 0xFFFFFFFF
_PIECE = 1 << 20


class DamagedZipError(Exception):
    """A member cannot be read; the message is what is wrong, in a clause."""


@dataclass(frozen=True)
class ZipMember:
    """A member as the zip directory describes it."""

    name: str
    header_offset: int
    end: int
    """Where the next member, or the directory, begins."""
    size: int
    stored_size: int
    method: int
    flags: int
    crc: int
    """0 if the writer computed none, as with ``torch.serialization.set_crc32_options(False)``."""

    @property
    def compressed(self) -> bool:
        return self.method != _STORED

    def data_start(self, file: BinaryIO) -> int:
        """Where the stored bytes begin. Raises DamagedZipError if the headers disagree."""
        file.seek(self.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise DamagedZipError(f"{self.name!r} does not begin where the zip directory says")
        _, _, flags, method, _, _, crc, stored_size, size, *lengths = _LOCAL_HEADER.unpack(header)
        name, extra = file.read(lengths[0]), file.read(lengths[1])
        start = self.header_offset + len(header) + sum(lengths)
        if name not in (self.name.encode(), self.name.encode("cp437", "ignore")):
            raise self._differs("name")
        if (flags ^ self.flags) & (_UNREADABLE | _DESCRIPTOR):
            raise self._differs("flags")
        if method != self.method:
            raise self._differs("compression")
        found = (crc, *_zip64(extra, size, stored_size))
        right = (self.crc, self.size, self.stored_size)
        if flags & _DESCRIPTOR:  # the sizes follow the data; here are zeros, in most files
            empty = ((0,), (0, _IN_ZIP64), (0, _IN_ZIP64))
            agrees = all(
                one == expected or one in zeros
                for one, expected, zeros in zip(found, right, empty, strict=True)
            )
        else:
            agrees = found == right
        if not agrees:
            raise self._differs("size or checksum")
        if start + self.stored_size > self.end:
            raise DamagedZipError(f"{self.name!r} overlaps what follows it")
        if flags & _DESCRIPTOR and self.size:  # torch writes none for an empty member
            file.seek(start + self.stored_size)
            if not self._is_descriptor(file.read(min(24, self.end - start - self.stored_size))):
                raise self._differs("size or checksum")
        return int(start)

    def pieces(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the contents in order, in pieces of at most a MiB."""
        file.seek(self.data_start(file))
        left = self.stored_size
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        while left and not inflater.eof and (piece := file.read(min(left, _PIECE))):
            left -= len(piece)
            if not self.compressed:
                yield piece
                continue
            while piece:
                try:
                    yield inflater.decompress(piece, _PIECE)
                except zlib.error as error:
                    raise DamagedZipError(f"{self.name!r} cannot be decompressed") from error
                piece = inflater.unconsumed_tail
        if self.compressed:
            yield inflater.flush()

    def read(self, file: BinaryIO, begin: int, size: int) -> bytearray:
        """At most *size* bytes of the contents, from *begin*; nothing else is kept."""
        data = bytearray()
        position = 0
        for piece in self.pieces(file):
            skipped = max(begin - position, 0)
            data += piece[skipped : skipped + size - len(data)]
            position += len(piece)
            if len(data) == size:
                break
        return data

    def contents(self, file: BinaryIO) -> bytes:
        """All of the contents. Raises DamagedZipError if their size or checksum is another one."""
        data = bytes(self.read(file, 0, self.size))
        self._compare(len(data), zlib.crc32(data))
        return data

    def check_crc(self, file: BinaryIO) -> None:
        """Read all of the contents as ``contents`` does, and keep nothing."""
        crc = size = 0
        for piece in self.pieces(file):
            crc, size = zlib.crc32(piece, crc), size + len(piece)
            if size > self.size:
                break
        self._compare(size, crc)

    def _compare(self, size: int, crc: int) -> None:
        if size != self.size or self.crc not in (0, crc):
            raise DamagedZipError(
                f"the contents of {self.name!r} do not have the size and checksum that the zip "
                "directory says"
            )

    def _is_descriptor(self, data: bytes) -> bool:
        # With a signature or without, sizes of 32 bits or of 64.
        narrow = (self.crc, self.stored_size & 0xFFFFFFFF, self.size & 0xFFFFFFFF)
        forms = (
            struct.pack("<3I", *narrow),
            struct.pack("<I2Q", self.crc, self.stored_size, self.size),
        )
        return data.startswith((*forms, *(b"PK\x07\x08" + form for form in forms)))

    def _differs(self, what: str) -> DamagedZipError:
        return DamagedZipError(
            f"{self.name!r} has another {what} in the zip directory than in its own header"
        )


class _BoundedReader:
    """Reads a file for zipfile, which reads its directory in one piece."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > MAX_ZIP_DIRECTORY_BYTES:
            raise DamagedZipError(
                f"its zip directory has {size:,} bytes, and a model's has at most "
                f"{MAX_ZIP_DIRECTORY_BYTES:,}"
            )
        return self._file.read(size)


def zip_members(file: BinaryIO) -> dict[str, ZipMember]:
    """The members of a zip file by name. Raises DamagedZipError, and whatever zipfile does."""
    with zipfile.ZipFile(cast(BinaryIO, _BoundedReader(file))) as archive:
        entries, directory = archive.infolist(), archive.start_dir
    starts = sorted({entry.header_offset for entry in entries})
    ends = dict(zip(starts, [*starts[1:], directory], strict=True))
    members: dict[str, ZipMember] = {}
    for entry in entries:
        if entry.filename in members:
            raise DamagedZipError(f"the zip directory has two members {entry.filename!r}")
        members[entry.filename] = ZipMember(
            entry.filename,
            entry.header_offset,
            ends[entry.header_offset],
            entry.file_size,
            entry.compress_size,
            entry.compress_type,
            entry.flag_bits,
            entry.CRC,
        )
    return members


def check_readable(member: ZipMember) -> None:
    """Raise DamagedZipError for a member that is encrypted, or compressed in another way."""
    if member.flags & _UNREADABLE:
        raise DamagedZipError(f"{member.name!r} is encrypted")
    if member.method not in (_STORED, _DEFLATED):
        raise DamagedZipError(
            f"{member.name!r} is compressed in a way that torch does not read (method "
            f"{member.method})"
        )
    if member.method == _STORED and member.size != member.stored_size:
        raise DamagedZipError(f"{member.name!r} has two sizes in the zip directory")


def _zip64(extra: bytes, size: int, stored_size: int) -> tuple[int, int]:
    """Size and stored size, of which an extra field holds those that have more than 32 bits."""
    sizes = [size, stored_size]
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _ZIP64_ID:
            for index, value in enumerate(sizes):
                if value == _IN_ZIP64 and len(field) >= 8:
                    sizes[index], field = int.from_bytes(field[:8], "little"), field[8:]
    return sizes[0], sizes[1]
