"""Finds the caption and the key of a row of any table."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from .captions import Caption, CaptionsError, ReadOptions

CAPTION_COLUMNS = ("caption", "captions", "text", "prompt")
"""Names of columns of captions, in any capitals: LAION's is TEXT."""

METADATA = "metadata"
"""Stem of the tables that Hugging Face's image folders have, keyed by their ``file_name``."""

STATUS_COLUMNS = ("status", "error_message")
"""What img2dataset says of each download."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    values: Mapping[str, Any]
    key: str | None = None
    """What the file itself identifies the row by, if it does."""


class RowReader:
    """Reads the captions of the rows of one file."""

    def __init__(self, file: str, names: Sequence[str], options: ReadOptions) -> None:
        """*names* are the columns of the file, or of its first row if rows may differ."""
        self._file = file
        self._options = options
        self._has_status = all(name in names for name in STATUS_COLUMNS)
        stem = posixpath.basename(file).split(".")[0]
        self._key_column = options.key_column
        if self._key_column is None and stem == METADATA and "file_name" in names:
            self._key_column = "file_name"
        elif self._key_column is None and self._has_status and "key" in names:
            self._key_column = "key"
        self._relative_key = self._key_column == "file_name" != options.key_column

    def columns(self, names: Sequence[str]) -> list[str]:
        """Return the columns, of *names*, that have to be read."""
        wanted = [find_column(names, self._file, self._options.column)]
        if self._key_column is not None:
            wanted.append(find_column(names, self._file, self._key_column))
        if self._has_status:
            wanted += STATUS_COLUMNS
        return list(dict.fromkeys(wanted))

    def failed(self, row: Row) -> bool:
        """Whether img2dataset could not download the picture of this row."""
        return self._has_status and row.values.get(STATUS_COLUMNS[0]) != "success"

    def captions(self, row: Row, number: int) -> list[Caption]:
        """Return the captions of a row: one, or all of a list if that was asked for."""
        where = f"{self._file}, row {number}"
        value = _value(row.values, where, self._options.column)
        key = row.key if row.key is not None else f"{self._file}:{number}"
        if self._key_column is not None:
            key = _text(_value(row.values, where, self._key_column), where, self._key_column)
            if self._relative_key:
                key = posixpath.join(posixpath.dirname(self._file), key)
        texts = _texts(value, where)
        choice = self._options.captions
        if choice == "all" and isinstance(value, (list, tuple)):
            return [Caption(f"{key}#{index}", text) for index, text in enumerate(texts)]
        if not texts:
            return [Caption(key, "")]
        index = 0
        if choice == "random":
            digest = hashlib.sha256(f"{self._options.seed}\n{key}".encode()).digest()
            index = int.from_bytes(digest[:8], "big") % len(texts)
        return [Caption(key, texts[index])]


def find_column(names: Sequence[str], where: str, wanted: str | None) -> str:
    """Return the top-level column that holds *wanted*, or the captions if that is None."""
    if wanted is not None:
        parts = wanted.split(".")
        prefixes = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
        found = [prefix for prefix in prefixes if prefix in names][:1]
        missing = f"no column {wanted!r}"
    else:
        found = [name for name in names if str(name).lower() in CAPTION_COLUMNS]
        missing = f"no column of captions ({', '.join(CAPTION_COLUMNS)})"
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(str, names[:12])) or "none"
    if found:
        raise CaptionsError(
            f"{where}: more than one column may hold the captions: {', '.join(found)}. "
            "Choose one with --column."
        )
    raise CaptionsError(
        f"{where}: {missing}. Columns: {listed}. Name the column of captions with --column, or "
        "that of keys with --key."
    )


def _value(row: Mapping[str, Any], where: str, wanted: str | None) -> Any:
    column = find_column(list(row), where, wanted)
    value = row[column]
    if wanted is None or wanted == column:
        return value
    for name in wanted[len(column) + 1 :].split("."):
        if not isinstance(value, Mapping) or name not in value:
            inside = ", ".join(map(str, value)) if isinstance(value, Mapping) else f"{value!r:.80}"
            raise CaptionsError(f"{where}: no field {name!r} of {wanted!r} in {inside}.")
        value = value[name]
    return value


def _texts(value: Any, where: str) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [_caption(one, where) for one in values]


def _caption(value: Any, where: str) -> str:
    if value is None or (isinstance(value, float) and isnan(value)):  # a picture without a caption
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CaptionsError(f"{where}: the caption is not UTF-8 text ({error}).") from error
    if not isinstance(value, str):
        raise CaptionsError(f"{where}: the caption is not a text but {value!r:.80}.")
    return value


def _text(value: Any, where: str, column: str) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="backslashreplace")
    if value is None or isinstance(value, (list, tuple, Mapping)):
        raise CaptionsError(f"{where}: {value!r:.80} in column {column!r} cannot be a key.")
    return str(value)
