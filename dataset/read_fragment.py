"""Reads the captions of a fragment."""

from __future__ import annotations

import posixpath
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from .fragments import EmptyFragment, Fragment, RowsFragment, TextsFragment, open_parquet
from .inputs.captions import Caption, CaptionsError, ReadOptions
from .inputs.columns import Row, RowReader
from .inputs.find import Inputs
from .inputs.rows import decompressed, kind_of, rows
from .storage import Folder


@dataclass(frozen=True)
class FragmentText:
    """What a fragment says."""

    captions: list[Caption]
    failed: int = 0
    """Rows without a picture: img2dataset could not download it."""


def check_first_caption(inputs: Inputs, options: ReadOptions) -> None:
    """Read one caption, so that a wrong file or column is said before anything is loaded.

    Raises ``CaptionsError``, also if there is no caption at all.
    """
    reader = FragmentReader(inputs.folder, options)
    if inputs.texts:
        reader.read(TextsFragment("", (inputs.texts[0].name,)))
        return
    for file in inputs.tables:
        kind, _ = kind_of(file.name)
        opened = _ParquetFile if kind == "parquet" else _RowStream
        with closing(opened(inputs.folder, file.name, options)) as table:
            row = next(iter(table.rows(0, 1)), None)
        if row is not None:
            RowReader(file.name, list(row.values), options).captions(row, 0)
            return
    raise CaptionsError(f"{inputs.folder.url} contains no captions.")


class FragmentReader:
    """Reads fragments; in order, it reads a file once, though its rows may have no offsets."""

    def __init__(self, folder: Folder, options: ReadOptions) -> None:
        self._folder = folder
        self._options = options
        self._stream: _RowStream | None = None
        self._parquet: _ParquetFile | None = None

    def close(self) -> None:
        """Close the file that is open."""
        for file in (self._stream, self._parquet):
            if file is not None:
                file.close()
        self._stream = self._parquet = None

    def read(self, fragment: Fragment) -> FragmentText:
        """Read one fragment. Raises ``CaptionsError``, which names file and row."""
        try:
            if isinstance(fragment, EmptyFragment):
                return FragmentText([Caption("", "")])
            if isinstance(fragment, TextsFragment):
                return self._texts(fragment)
            found = self._rows(fragment)
        except FileNotFoundError as error:
            raise CaptionsError(f"{error.filename or error} was removed; start again.") from error
        reader: RowReader | None = None
        captions: list[Caption] = []
        failed = 0
        for number, row in enumerate(found, fragment.first):
            reader = reader or RowReader(fragment.file, list(row.values), self._options)
            if reader.failed(row):
                failed += 1
            else:
                captions += reader.captions(row, number)
        return FragmentText(captions, failed)

    def _rows(self, fragment: RowsFragment) -> list[Row]:
        kind, _ = kind_of(fragment.file)
        assert kind is not None
        if kind == "parquet":
            if self._parquet is None or self._parquet.name != fragment.file:
                if self._parquet is not None:
                    self._parquet.close()
                self._parquet = _ParquetFile(self._folder, fragment.file, self._options)
            return self._parquet.rows(fragment.first, fragment.count)
        if fragment.offset is not None:
            with self._folder.open(fragment.file) as stream:
                stream.seek(fragment.offset)
                some = rows(stream, fragment.file, kind, self._options, at_start=False)
                found = list(islice(some, fragment.count))
                some.close()
                return self._whole(found, fragment)
        current = self._stream
        if current is None or current.name != fragment.file or current.position > fragment.first:
            if current is not None:
                current.close()
            current = self._stream = _RowStream(self._folder, fragment.file, self._options)
        return self._whole(current.rows(fragment.first, fragment.count), fragment)

    @staticmethod
    def _whole(found: list[Row], fragment: RowsFragment) -> list[Row]:
        if len(found) != fragment.count:
            raise CaptionsError(f"{fragment.file} was changed while it was read; start again.")
        return found

    def _texts(self, fragment: TextsFragment) -> FragmentText:
        return FragmentText([self._text(name) for name in fragment.files])

    def _text(self, name: str) -> Caption:
        try:
            text = self._folder.read(name).decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise CaptionsError(f"{name} is not UTF-8 text ({error}). Save it as UTF-8.") from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CaptionsError(f"{name} cannot be read: {error}") from error
        if self._options.caption_lines == "first":
            text = text.partition("\n")[0].rstrip("\r")
        return Caption(posixpath.splitext(name)[0], text)


class _RowStream:
    """A file that can only be read from its start."""

    def __init__(self, folder: Folder, name: str, options: ReadOptions) -> None:
        kind, _ = kind_of(name)
        assert kind is not None
        self.name = name
        self.position = 0
        self._file = folder.open(name)
        self._rows = rows(decompressed(self._file, name), name, kind, options)

    def rows(self, first: int, count: int) -> list[Row]:
        found = list(islice(self._rows, first - self.position, first - self.position + count))
        self.position = first + len(found)
        return found

    def close(self) -> None:
        self._rows.close()
        self._file.close()


class _ParquetFile:
    """A parquet file; the row group that was read last is kept, as fragments may divide it."""

    def __init__(self, folder: Folder, name: str, options: ReadOptions) -> None:
        self.name = name
        self._file = open_parquet(folder, name)
        names = self._file.schema_arrow.names
        if len(set(names)) < len(names):
            raise CaptionsError(f"{name}: two columns have the same name: {', '.join(names)}.")
        self._columns = RowReader(name, names, options).columns(names)
        self._index = -1
        self._group: Any = None

    def rows(self, first: int, count: int) -> list[Row]:
        from pyarrow import ArrowException

        found: list[Row] = []
        start = 0
        for index in range(self._file.metadata.num_row_groups):
            size = self._file.metadata.row_group(index).num_rows
            begin, end = max(first - start, 0), min(first + count - start, size)
            if begin < end:
                try:
                    group = self._row_group(index)
                    found += map(Row, group.slice(begin, end - begin).to_pylist())
                except (ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
                    raise CaptionsError(f"{self.name} cannot be read: {error}") from error
            start += size
        return found

    def close(self) -> None:
        self._file.close()

    def _row_group(self, index: int) -> Any:
        if index != self._index:
            self._group = self._file.read_row_group(index, columns=self._columns)
            self._index = index
        return self._group
