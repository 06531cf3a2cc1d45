"""Iterates over the rows of a file: text, JSON, CSV, Arrow and tar, compressed or not."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, BinaryIO, cast

from ...sd2.errors import how_to_install
from ...sd2.files.limits import MAX_FREE_ROWS, MAX_ROW_BYTES, MAX_TAR_HEADER_BYTES
from .captions import CaptionsError, ReadOptions
from .columns import CAPTION_COLUMNS, Row

KINDS = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".tar": "tar",
}
COMPRESSIONS = (".gz", ".zst")
LINES = ("txt", "jsonl")
"""Kinds with a row a line."""

BUFFER = 1 << 20
_ROWS_AT_A_TIME = 10_000
BOM = b"\xef\xbb\xbf"

NEEDS_PYARROW = f"needs pyarrow. {how_to_install('pyarrow', 'dataset')}"


def kind_of(name: str) -> tuple[str | None, str]:
    """Return the kind of a file, None if captions are not read from such files, and .gz or .zst."""
    stem, extension = posixpath.splitext(name.lower())
    compression = ""
    if extension in COMPRESSIONS:
        compression = extension
        extension = posixpath.splitext(stem)[1]
    kind = KINDS.get(extension)
    if compression and kind in ("parquet", "arrow"):
        return None, compression
    return kind, compression


def decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """Decompress a stream if its file's name says that it is compressed."""
    compression = kind_of(name)[1]
    if compression == ".gz":
        return cast(BinaryIO, gzip.open(stream))
    if compression == ".zst":
        try:
            import pyarrow
        except ImportError as error:
            raise CaptionsError(f"{name}: reading .zst {NEEDS_PYARROW}") from error
        source = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream), "zstd")
        return cast(BinaryIO, source)
    return stream


def rows(
    stream: BinaryIO, name: str, kind: str, options: ReadOptions, *, at_start: bool = True
) -> Generator[Row, None, None]:
    """Iterate over the rows of a decompressed *stream*, which begins at the start of a row.

    Raises ``CaptionsError``, which names the file and the row or line.
    """
    readers: dict[str, Callable[[], Iterator[Row]]] = {
        "txt": lambda: _text_lines(buffered(stream), name, at_start=at_start),
        "jsonl": lambda: _json_lines(buffered(stream), name),
        "csv": lambda: _csv_rows(buffered(stream), name, ",", options),
        "tsv": lambda: _csv_rows(buffered(stream), name, "\t", options),
        "json": lambda: _json_rows(buffered(stream), name),
        "arrow": lambda: _arrow_rows(stream, name),
        "tar": lambda: _tar_rows(buffered(stream), name),
    }
    try:
        yield from readers[kind]()
    except UnicodeDecodeError as error:
        raise CaptionsError(f"{name} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    except (OSError, EOFError, csv.Error, tarfile.TarError, zlib.error, RecursionError) as error:
        raise CaptionsError(f"{name} cannot be read: {error}") from error


def buffered(stream: BinaryIO) -> BinaryIO:
    """Give a stream fast iteration over lines."""
    if isinstance(stream, (io.BufferedReader, gzip.GzipFile)):
        return cast(BinaryIO, stream)
    return cast(BinaryIO, io.BufferedReader(cast(Any, stream), BUFFER))


def _text_lines(stream: BinaryIO, name: str, *, at_start: bool) -> Iterator[Row]:
    for number, line in enumerate(_lines(stream, name)):
        data = line.rstrip(b"\r\n")
        if number == 0 and at_start:
            data = data.removeprefix(BOM)
        yield Row({CAPTION_COLUMNS[0]: data.decode("utf-8")})


def _json_lines(stream: BinaryIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(stream, name), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line.removeprefix(BOM))
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise CaptionsError(f"{where}: not JSON ({error}).") from error
        yield _json_row(value, where)


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Iterate over lines, none of which fills the memory."""
    number = 0
    while line := stream.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES:
            raise _too_long(f"{name}, line {number}")
        yield line


def _too_long(where: str) -> CaptionsError:
    return CaptionsError(f"{where}: longer than {MAX_ROW_BYTES:,} bytes, the limit of a row.")


def _json_row(value: Any, where: str, key: str | None = None) -> Row:
    if isinstance(value, str):
        return Row({CAPTION_COLUMNS[0]: value}, key)
    if not isinstance(value, dict):
        raise CaptionsError(f"{where}: expected an object or a string, not {value!r:.80}.")
    return Row(value, key)


def _json_rows(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Rows of a JSON array, or of an object that has a row for each key, as kohya's files have."""
    with _text(stream) as text:
        for number, (key, value) in enumerate(_json_items(text, name)):
            yield _json_row(value, f"{name}, row {number}", key)


@contextlib.contextmanager
def _text(stream: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """Decode a stream, which is left open for whoever opened it."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        yield text
    finally:
        text.detach()


def _json_items(stream: io.TextIOBase, name: str) -> Iterator[tuple[str | None, Any]]:
    """Iterate over the elements of an array or object without reading all of it into memory."""
    items = _JsonText(stream, name)
    opening = items.next_character()
    if opening not in ("[", "{"):
        raise CaptionsError(f"{name}: expected a JSON array or object of captions.")
    closing = "]" if opening == "[" else "}"
    items.skip()
    if items.next_character() == closing:
        return
    while True:
        key = None
        if opening == "{":
            key = items.value()
            if items.next_character() != ":":
                raise CaptionsError(f"{name}: not JSON (expected ':').")
            items.skip()
        yield key, items.value()
        separator = items.next_character()
        items.skip()
        if separator == closing:
            return
        if separator != ",":
            raise CaptionsError(f"{name}: not JSON (expected ',' or {closing!r}).")


class _JsonText:
    """A JSON text that is decoded value by value as it is read."""

    def __init__(self, stream: io.TextIOBase, name: str) -> None:
        self._stream = stream
        self._name = name
        self._text = ""
        self._position = 0
        self._decode = json.JSONDecoder().raw_decode

    def _more(self) -> bool:
        block = self._stream.read(BUFFER)
        self._text = self._text[self._position :] + block
        self._position = 0
        return bool(block)

    def next_character(self) -> str:
        """Return the next character that is not blank; "" at the end."""
        while True:
            while self._position < len(self._text):
                if not self._text[self._position].isspace():
                    return self._text[self._position]
                self._position += 1
            if not self._more():
                return ""

    def skip(self) -> None:
        self._position += 1

    def value(self) -> Any:
        """Decode the next value. A number at the end of what was read may go on: read more."""
        self.next_character()
        while True:
            try:
                value, end = self._decode(self._text, self._position)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._position > MAX_ROW_BYTES:
                    raise _too_long(self._name) from None
                if isinstance(error, RecursionError) or not self._more():
                    raise CaptionsError(f"{self._name}: not JSON ({error}).") from error
                continue
            if end == len(self._text) and self._more():
                continue
            self._position = end
            return value


def _csv_rows(stream: BinaryIO, name: str, delimiter: str, options: ReadOptions) -> Iterator[Row]:
    csv.field_size_limit(MAX_ROW_BYTES)  # captions may be long
    with _text(stream) as text:
        yield from _csv_fields(text, name, delimiter, options)


def _csv_fields(
    text: io.TextIOWrapper, name: str, delimiter: str, options: ReadOptions
) -> Iterator[Row]:
    first = text.readline(MAX_ROW_BYTES + 1)
    if delimiter == "," and "," not in first and ";" in first:
        delimiter = ";"

    size = 0  # of the row so far: quoted fields may have many lines

    def lines() -> Iterator[str]:
        nonlocal size
        line = first
        while line:
            size += len(line)
            if size > MAX_ROW_BYTES:
                raise _too_long(f"{name}, line {reader.line_num + 1}")
            yield line
            line = text.readline(MAX_ROW_BYTES + 1)

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    for fields in reader:
        size = 0
        where = f"{name}, line {reader.line_num}"
        if not fields:
            continue
        if names is None:
            names = fields if options.header else [str(n + 1) for n in range(len(fields))]
            if len(set(names)) < len(names):
                raise CaptionsError(f"{name}: two columns have the same name: {', '.join(names)}.")
            if options.header:
                continue
        if len(fields) != len(names):
            raise CaptionsError(
                f"{where}: {len(fields)} fields, but {len(names)} columns ({', '.join(names)}). "
                f'A caption that contains {delimiter!r} must be in "quotes".'
            )
        yield Row(dict(zip(names, fields, strict=True)))


def _arrow_rows(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Rows of an Arrow file, as ``save_to_disk`` of datasets writes it (a stream of batches)."""
    try:
        import pyarrow
    except ImportError as error:
        raise CaptionsError(f"{name}: reading .arrow {NEEDS_PYARROW}") from error
    try:
        try:
            reader = pyarrow.ipc.open_stream(stream)
            batches: Iterator[Any] = iter(reader)
        except pyarrow.ArrowInvalid:
            stream.seek(0)
            file = pyarrow.ipc.open_file(stream)
            batches = (file.get_batch(index) for index in range(file.num_record_batches))
        for batch in batches:
            if batch.num_rows > MAX_FREE_ROWS + 8 * batch.nbytes:
                raise CaptionsError(f"{name}: {batch.num_rows:,} rows in {batch.nbytes:,} bytes.")
            batch.validate(full=True)  # else offsets may lead outside of the memory that was read
            for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
                yield from map(Row, batch.slice(start, _ROWS_AT_A_TIME).to_pylist())
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise CaptionsError(f"{name} cannot be read as Arrow: {reason}") from error


_EXTENDED_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _TarInfo(tarfile.TarInfo):
    """The header of a file in a tar; extended ones, which are read whole, are bounded."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        # What tarfile calls for every header, and its source says may be overridden. ``frombuf``,
        # which has a public name, is not: distributions' patched Pythons (seen in a 3.12.3) call a
        # private one instead.
        if self.type in _EXTENDED_HEADERS and self.size > MAX_TAR_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]


def _tar_rows(stream: BinaryIO, name: str) -> Iterator[Row]:
    """Rows of a webdataset tar: files with the same name up to its first dot are one row."""
    key: str | None = None
    members: dict[str, bytes] = {}
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_TarInfo) as tar:
        for member in tar:
            if not member.isfile():
                continue
            folder, base = posixpath.split(member.name)
            stem, _, extension = base.partition(".")
            this = posixpath.join(folder, stem)
            if this != key:
                if key is not None:
                    yield _tar_row(key, members, name)
                key, members = this, {}
            if extension.lower() in ("txt", "caption", "json"):
                if member.size > MAX_ROW_BYTES:
                    raise _too_long(f"{name}, {member.name}")
                file = tar.extractfile(member)
                members[extension.lower()] = file.read() if file is not None else b""
    if key is not None:
        yield _tar_row(key, members, name)


def _tar_row(key: str, members: Mapping[str, bytes], name: str) -> Row:
    where = f"{name}, {key}"
    values: dict[str, Any] = {}
    if "json" in members:
        try:
            values = json.loads(members["json"])
        except (ValueError, RecursionError) as error:
            raise CaptionsError(f"{where}.json: not JSON ({error}).") from error
        if not isinstance(values, dict):
            raise CaptionsError(f"{where}.json: expected an object.")
    texts = [extension for extension in ("txt", "caption") if extension in members]
    if texts:
        text = members[texts[0]].decode("utf-8-sig").strip()
        values = {CAPTION_COLUMNS[0]: text, "json": values}
    if not members:
        raise CaptionsError(f"{where}: neither a .txt nor a .json belongs to this key.")
    return Row(values, key)
