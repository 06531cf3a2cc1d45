"""Captions from the files that people have: text, tables, and a text beside each picture."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..host.model_folders import walk
from ..sd2.errors import SD2ClipError, and_more

COLUMNS = ("caption", "text", "prompt", "TEXT")
"""Where captions are looked for unless a column is named; the last one is LAION's."""

TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


class CaptionsError(SD2ClipError):
    """A source of captions that cannot be read."""


@dataclass(frozen=True)
class Caption:
    """A caption and what its picture is known by."""

    key: str
    """Of a text file beside a picture: its path below the folder, without the ending. Of a line or
    a row: what the key column says, or its number, counted from 0 through all files."""
    text: str


def read_captions(
    source: Path, column: str | None = None, key_column: str | None = None
) -> Iterator[Caption]:
    """The captions of *source*, in an order that is the same each time.

    *source* is a ``.txt`` with a caption a line, a ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``,
    a folder of such tables, or a folder with a ``.txt`` for each picture.
    """
    files, beside_pictures = _files(source)
    if beside_pictures:
        if column is not None or key_column is not None:
            raise CaptionsError(f"{source} holds no tables that could have columns.")
        yield from _beside_pictures(source, files)
        return
    number = 0
    for file in files:
        for row in _rows(file, column, key_column):
            yield Caption(str(number) if row.key is None else row.key, row.text)
            number += 1


def count_captions(source: Path) -> int:
    """About how many there are, at a glance, for those who wait."""
    files, beside_pictures = _files(source)
    if beside_pictures:
        return len(files)
    total = 0
    for file in files:
        if file.suffix.lower() == ".parquet":
            total += _parquet(file).metadata.num_rows
        else:
            with file.open("rb") as stream:
                total += sum(
                    block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b"")
                )
    return total


@dataclass(frozen=True)
class _Row:
    text: str
    key: str | None = None


def _files(source: Path) -> tuple[list[Path], bool]:
    """The files of *source*, in order, and whether they are texts beside pictures."""
    if not source.exists():
        raise CaptionsError(f"{source} does not exist.")
    if not source.is_dir():
        return [source], False

    def fail(error: OSError) -> None:
        raise CaptionsError(f"{error.filename} cannot be read: {error.strerror}") from error

    tables: list[Path] = []
    texts: list[Path] = []
    for root, _, names in walk(source, fail):
        for name in names:
            suffix = Path(name).suffix.lower()
            if not name.startswith(".") and suffix in (*TABLES, ".txt"):
                (texts if suffix == ".txt" else tables).append(Path(root, name))
    if tables and texts:
        raise CaptionsError(
            f"{source} holds tables ({tables[0].name}) and texts ({texts[0].name}). Name the "
            "table, or a folder with one of both."
        )
    if not tables and not texts:
        raise CaptionsError(
            f"{source} holds no captions: neither .txt files beside pictures nor tables "
            f"({', '.join(TABLES)})."
        )
    return tables or texts, not tables


def _beside_pictures(folder: Path, files: list[Path]) -> Iterator[Caption]:
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise CaptionsError(f"{file} is no UTF-8 text ({error}). Save it as UTF-8.") from error
        except OSError as error:
            raise CaptionsError(f"{file} cannot be read: {error}") from error
        yield Caption(file.relative_to(folder).with_suffix("").as_posix(), text)


def _rows(file: Path, column: str | None, key_column: str | None) -> Iterator[_Row]:
    suffix = file.suffix.lower()
    try:
        if suffix == ".txt":
            if column is not None or key_column is not None:
                raise CaptionsError(f"{file} has a caption a line, and no columns.")
            with file.open(encoding="utf-8-sig", newline="\n") as stream:
                for line in stream:
                    yield _Row(line.rstrip("\r\n"))
        elif suffix == ".parquet":
            yield from _parquet_rows(file, column, key_column)
        elif suffix in TABLES:
            read = _json_lines if suffix in (".jsonl", ".ndjson") else _csv_rows
            for where, row in read(file):
                yield _row(row, where, column, key_column)
        else:
            raise CaptionsError(
                f"{file} is of no kind that captions are read from: .txt, {', '.join(TABLES)}, or "
                "a folder."
            )
    except UnicodeDecodeError as error:
        raise CaptionsError(f"{file} is no UTF-8 text ({error}). Save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise CaptionsError(f"{file} cannot be read: {error}") from error


def _json_lines(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CaptionsError(f"{where}: not JSON ({error}).") from error
            if not isinstance(value, (dict, str)):
                raise CaptionsError(f"{where}: expected an object or a string, not {value!r:.80}.")
            yield where, {COLUMNS[0]: value} if isinstance(value, str) else value


def _csv_rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # captions may be long
    with file.open(encoding="utf-8-sig", newline="") as stream:
        mark = "\t" if file.suffix.lower() == ".tsv" else ","
        reader = csv.reader(stream, delimiter=mark, strict=True)
        names = next(reader, [])
        if len(set(names)) < len(names):
            raise CaptionsError(f"{file}: two columns have one name in {', '.join(names)}.")
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if len(row) != len(names) and row:
                raise CaptionsError(
                    f"{where}: {len(row)} fields where the heading has {len(names)} "
                    f"({', '.join(names)}). A caption with {'tabs' if mark != ',' else 'commas'} "
                    'in it must stand in "quotes".'
                )
            if row:
                yield where, dict(zip(names, row, strict=True))


def _parquet(file: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise CaptionsError(
            f"{file}: reading parquet needs pyarrow. Install it: pip install pyarrow"
        ) from error
    try:
        return parquet.ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise CaptionsError(f"{file} cannot be read as parquet: {error}") from error


def _parquet_rows(file: Path, column: str | None, key_column: str | None) -> Iterator[_Row]:
    table = _parquet(file)
    names = table.schema_arrow.names
    if len(set(names)) < len(names):
        raise CaptionsError(f"{file}: two columns have one name in {', '.join(names)}.")
    columns = [_column(names, str(file), column)]
    if key_column is not None:
        columns.append(_column(names, str(file), key_column))
    number = 0
    for batch in table.iter_batches(columns=columns):
        for row in batch.to_pylist():
            yield _row(row, f"{file}, row {number}", columns[0], key_column)
            number += 1


def _row(row: Mapping[str, Any], where: str, column: str | None, key_column: str | None) -> _Row:
    text = row[_column(list(row), where, column)]
    if text is None:  # a picture without a caption
        text = ""
    if not isinstance(text, str):
        raise CaptionsError(f"{where}: the caption is no text but {text!r:.80}.")
    if key_column is None:
        return _Row(text)
    return _Row(text, str(row[_column(list(row), where, key_column)]))


def _column(names: list[str], where: str, wanted: str | None) -> str:
    found = [name for name in ([wanted] if wanted is not None else COLUMNS) if name in names]
    if len(found) == 1:
        return found[0]
    listed = and_more(list(map(str, names)), 12) or "none"
    if found:
        raise CaptionsError(f"{where}: which column has the captions, {' or '.join(found)}?")
    missing = f"no column {wanted!r}"
    if wanted is None:
        missing = f"no column of captions ({', '.join(COLUMNS)})"
    raise CaptionsError(f"{where}: {missing}. There are: {listed}. Name one with --column.")
