"""Divides inputs into fragments: the unit of work, one output file each.

A fragment is a range of rows of one file, or some of the texts beside pictures. Its id depends on
nothing but the settings and what it reads, so that another file in the input changes no other id.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..sd2.files.limits import MAX_FREE_ROWS
from .inputs.captions import CaptionsError, ReadOptions
from .inputs.rows import BOM, LINES, NEEDS_PYARROW, buffered, decompressed, kind_of, rows
from .storage import FileInfo, Folder


@dataclass(frozen=True)
class RowsFragment:
    """Rows of a file."""

    id: str
    file: str
    first: int
    count: int
    offset: int | None
    """Byte at which the first row starts; None: the file must be read from its start."""


@dataclass(frozen=True)
class TextsFragment:
    """Texts beside pictures, each a caption."""

    id: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class EmptyFragment:
    """The empty caption, for trainers that drop captions."""

    id: str = "empty"


Fragment = RowsFragment | TextsFragment | EmptyFragment


@dataclass(frozen=True)
class TableFile:
    """A file with a caption a row."""

    name: str
    size: int
    version: str
    rows: int
    offsets: tuple[int, ...] = ()
    """Of lines: the byte at which each fragment starts."""

    def fragments(self, size: int, salt: str) -> Iterator[RowsFragment]:
        """Divide the file into fragments of *size* rows."""
        for index, first in enumerate(range(0, self.rows, size)):
            count = min(size, self.rows - first)
            name = _id(salt, self.name, self.size, self.version, first, count)
            offset = self.offsets[index] if self.offsets else None
            yield RowsFragment(name, self.name, first, count, offset)

    def count(self, size: int) -> int:
        """Return the number of fragments."""
        return -(-self.rows // size)


@dataclass(frozen=True)
class TextGroup:
    """Some of the texts of a folder."""

    names: tuple[str, ...]
    version: str
    """Digest of all sizes and versions."""

    def fragments(self, size: int, salt: str) -> Iterator[TextsFragment]:
        """Return the group as one fragment."""
        yield TextsFragment(_id(salt, self.version), self.names)

    def count(self, size: int) -> int:
        """Return the number of fragments: one."""
        return 1


Input = TableFile | TextGroup


def _id(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def group_texts(texts: Sequence[FileInfo], size: int) -> Iterator[TextGroup]:
    """Divide texts, in order of their names, into groups of at most *size*.

    Groups end where a name's checksum says so, twice as often as by size: a new file changes the
    group in which it comes to be, and seldom the next.
    """
    group: list[FileInfo] = []
    for text in texts:
        group.append(text)
        if len(group) == size or zlib.crc32(text.name.encode()) % max(size // 2, 1) == 0:
            yield _group(group)
            group = []
    if group:
        yield _group(group)


def _group(files: Sequence[FileInfo]) -> TextGroup:
    version = _id(*[[file.name, file.size, file.version] for file in files])
    return TextGroup(tuple(file.name for file in files), version)


def read_table(folder: Folder, file: FileInfo, size: int, options: ReadOptions) -> TableFile:
    """Count the rows of a file: of parquet by its footer, else in one sequential pass.

    Of uncompressed lines, the pass keeps the offset of every *size*-th row.
    """
    kind, compression = kind_of(file.name)
    assert kind is not None
    count, offsets = 0, []
    if kind == "parquet":
        with open_parquet(folder, file.name) as parquet:
            return TableFile(file.name, file.size, file.version, parquet.metadata.num_rows)
    with folder.open(file.name) as stream:
        if kind in LINES and not compression:
            position = 0
            for line in buffered(stream):
                if kind == "txt" or line.strip():
                    if count % size == 0:
                        skipped = len(BOM) if position == 0 and line.startswith(BOM) else 0
                        offsets.append(position + skipped)
                    count += 1
                position += len(line)
        else:
            for _ in rows(decompressed(stream, file.name), file.name, kind, options):
                count += 1
    return TableFile(file.name, file.size, file.version, count, tuple(offsets))


def open_parquet(folder: Folder, name: str) -> Any:
    """Open a parquet file. Raises ``CaptionsError`` if it is damaged or pyarrow is missing.

    A row group is allocated for as many rows as it states, before any of them is read.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise CaptionsError(f"{name}: reading parquet {NEEDS_PYARROW}") from error
    try:
        file = parquet.ParquetFile(folder.path_or_file(name))
    except (ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        raise CaptionsError(f"{name} cannot be read as parquet: {error}") from error
    groups = range(file.metadata.num_row_groups)
    counts = [file.metadata.row_group(index).num_rows for index in groups]
    info = folder.info(name)
    size = 0 if info is None else info.size
    if min(counts, default=0) < 0 or sum(counts) > MAX_FREE_ROWS + 8 * size:
        file.close()
        raise CaptionsError(f"{name}: groups of {max(counts):,} rows in {size:,} bytes.")
    return file
