"""Reads the embeddings that ``sd2-clip encode`` wrote, for a trainer."""

from __future__ import annotations

import json
import posixpath
import random
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import accumulate
from os import PathLike
from typing import Any, Protocol

import torch

from ..sd2.errors import OptionError, SD2ClipError, and_more
from ..sd2.files.checkpoint import open_checkpoint
from ..sd2.tokens.chunks import pad_chunk
from .encoded_rows import LATENTS, POOLED, EncodedRows
from .inputs.captions import Caption
from .inputs.rows import NEEDS_PYARROW
from .manifest import IncompleteError, read_manifest
from .storage import Folder
from .tokenizers import tokenize

OPEN_FILES = 32

BUFFER = 1024
"""Rows among which ``shuffled`` chooses: 160 MB at SD2's width."""

Item = dict[str, Any]


class EncodedCaptions:
    """A map-style data set over a folder of encoded captions.

    ``dataset[i]`` is a dict: ``key``, ``caption``, ``token_count``, ``truncated``,
    ``caption_latents`` (77, W) and, if they were stored, ``caption_pooled`` (W,) and ``token_ids``
    (77,). ``dataset.empty`` is the same of the empty caption. Nothing but the files' names and
    numbers of rows is in memory.

    Safetensors is mapped, and made for random access. Of parquet, a row group of 16 rows is read
    at a time: iterate, or iterate over ``shuffled(seed)``, rather than ask for single rows.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        """Raises ``IncompleteError`` unless all captions are there."""
        self._folder = Folder(str(folder))
        manifest = read_manifest(self._folder)
        self.settings = manifest.settings
        """What the embeddings were made with."""
        self._open = _OPENERS.get(manifest.settings["file_format"])
        if self._open is _ParquetRows and find_spec("pyarrow") is None:
            raise OptionError(
                f"{folder} is in parquet, and reading it {NEEDS_PYARROW} "
                "Or write the folder with --format safetensors."
            )
        if self._open is None:
            raise OptionError(
                f"{folder} is in the format {manifest.settings['file_format']}, which its own "
                f"trainer reads. This class reads parquet and safetensors."
            )
        self.files = [name for name, _ in manifest.fragments]
        """Names of the files, in order."""
        self.left_out = manifest.left_out
        """Counts of input files that had no partner."""
        self._ends = list(accumulate(count for _, count in manifest.fragments))
        self.empty_file = manifest.empty
        """Name of the file of the empty caption."""
        self._files: OrderedDict[str, _EncodedFile] = OrderedDict()
        """The files used last; an open file each."""

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Item:
        length = len(self)
        if not -length <= number < length:
            raise IndexError(f"There are {length} captions; {number} is not one of them.")
        number %= length
        index = bisect_right(self._ends, number)
        start = self._ends[index - 1] if index else 0
        return self._row(self.files[index], number - start)

    def __iter__(self) -> Iterator[Item]:
        for name in self.files:
            for row in range(self._file(name).count):
                yield self._row(name, row)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": OrderedDict()}  # a worker opens files of its own

    def shuffled(
        self, seed: int, *, buffer: int = BUFFER, worker: int = 0, workers: int = 1
    ) -> Iterator[Item]:
        """Iterate once over all captions in a random order that *seed* determines.

        Row groups are read in random order, and rows are drawn from a *buffer* of them. Of several
        *workers*, each gets other row groups; together they get all.
        """
        if not 0 <= worker < workers:
            raise OptionError(f"Invalid worker {worker}: it must be between 0 and {workers - 1}.")
        random_order = random.Random(seed)
        groups = self._groups()
        random_order.shuffle(groups)
        rows: list[Item] = []
        for index, start, count in groups[worker::workers]:
            name = self.files[index]
            rows += [self._row(name, row) for row in range(start, start + count)]
            while len(rows) > buffer:
                yield _draw(rows, random_order)
        while rows:
            yield _draw(rows, random_order)

    def _groups(self) -> list[tuple[int, int, int]]:
        """Return file, first row and number of rows of what is read at a time."""
        start, groups = 0, []
        for index, end in enumerate(self._ends):
            count = end - start
            groups += [
                (index, first, min(ROWS_TOGETHER, count - first))
                for first in range(0, count, ROWS_TOGETHER)
            ]
            start = end
        return groups

    @property
    def keys(self) -> list[str]:
        """All keys, in order; reads no embeddings."""
        return [key for name in self.files for key in self._keys(name)]

    def find(self, keys: Sequence[str]) -> list[int]:
        """Return the number of each key's caption, the first of several; reads no embeddings.

        Raises ``OptionError`` if there is none.
        """
        numbers: dict[str, int] = {}
        wanted, start = set(keys), 0
        for name in self.files:
            if len(numbers) == len(wanted):
                break
            for row, key in enumerate(self._keys(name)):
                if key in wanted:
                    numbers.setdefault(key, start + row)
            start += self._file(name).count
        absent = [repr(key) for key in dict.fromkeys(keys) if key not in numbers]
        if absent:
            known = [repr(key) for name in self.files[:1] for key in self._keys(name)]
            raise OptionError(
                f"{self._folder.path('')} has no caption with the key {and_more(absent)}. It has "
                f"{and_more(known, 3) or 'none'}."
            )
        return [numbers[key] for key in keys]

    @property
    def empty(self) -> Item:
        """The empty caption's embedding, for captions that are dropped in training."""
        return self._row(self.empty_file, 0)

    def read_file(self, name: str) -> EncodedRows:
        """Read all captions of a file; those with equal tokens share an embedding."""
        items = [self._row(name, row) for row in range(self._file(name).count)]
        tokens = tokenize([item["caption"] for item in items], self.settings["tokenizer"])
        rows: dict[tuple[int, ...], int] = {}
        row_of = [rows.setdefault(tuple(pad_chunk(ids)), len(rows)) for ids in tokens]
        first = [row_of.index(row) for row in range(len(rows))]
        return EncodedRows(
            [Caption(item["key"], item["caption"]) for item in items],
            [item["token_count"] for item in items],
            row_of,
            list(rows),
            {
                kind: torch.stack([items[index][kind] for index in first])
                for kind in (LATENTS, POOLED)
                if kind in items[0]
            },
        )

    def _row(self, name: str, row: int) -> Item:
        try:
            return self._file(name).row(row)
        except IncompleteError:
            raise
        except (SD2ClipError, OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _keys(self, name: str) -> Sequence[str]:
        try:
            return self._file(name).read_keys()
        except IncompleteError:
            raise
        except (SD2ClipError, OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _file(self, name: str) -> _EncodedFile:
        file = self._files.get(name)
        if file is None:
            assert self._open is not None
            if posixpath.basename(name.replace("\\", "/")) != name:
                raise IncompleteError(
                    f"The manifest of {self._folder.path('')} names {name!r}, which is not a file "
                    "of that folder. Run sd2-clip encode again."
                )
            try:
                file = self._open(self._folder, name)
            except (SD2ClipError, OSError, ValueError) as error:
                raise self._damaged(name, error) from error
            self._files[name] = file
            while len(self._files) > OPEN_FILES:
                self._files.popitem(last=False)
        self._files.move_to_end(name)
        return file

    def _damaged(self, name: str, error: Exception) -> IncompleteError:
        return IncompleteError(
            f"{self._folder.path(name)} cannot be read ({error}). Run sd2-clip encode again with "
            "--verify, and once more without: it encodes the captions of damaged files again."
        )


def _draw(rows: list[Item], random_order: random.Random) -> Item:
    index = random_order.randrange(len(rows))
    rows[index], rows[-1] = rows[-1], rows[index]
    return rows.pop()


class _EncodedFile(Protocol):
    """An open file of embeddings."""

    count: int

    def row(self, number: int) -> Item: ...

    def read_keys(self) -> Sequence[str]: ...


ROWS_TOGETHER = 16

PLAIN = ("key", "caption", "content_id", "token_count", "truncated")
"""Columns that are not tensors."""


class _ParquetRows:
    """A parquet file, of which the row group that was read last is kept."""

    def __init__(self, folder: Folder, name: str) -> None:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(folder.path_or_file(name))
        self.count: int = self._file.metadata.num_rows
        self._group_size = max(self._file.metadata.row_group(0).num_rows, 1)
        self._index = -1
        self._group: Any = None
        self._tensors: dict[str, Any] = {}

    def row(self, number: int) -> Item:
        index, row = divmod(number, self._group_size)
        if index != self._index:
            self._read(index)
        item = {name: column[row] for name, column in self._group.items()}
        tensors = {name: torch.from_numpy(v[row].copy()) for name, v in self._tensors.items()}
        return {**item, **tensors}

    def _read(self, index: int) -> None:
        from .arrow_table import tensor_values

        table = self._file.read_row_group(index)
        plain = [name for name in table.column_names if name in PLAIN]
        self._group = {name: table[name].to_pylist() for name in plain}
        self._tensors = {
            name: tensor_values(table[name]) for name in table.column_names if name not in plain
        }
        self._index = index

    def read_keys(self) -> Sequence[str]:
        keys: list[str] = self._file.read(columns=["key"])["key"].to_pylist()
        return keys


class _SafetensorsRows:
    """A safetensors file, mapped."""

    def __init__(self, folder: Folder, name: str) -> None:
        if not folder.is_local:
            raise OptionError(
                "Safetensors is read from a disk, where it can be mapped. Use --format parquet on "
                "object stores."
            )
        checkpoint = open_checkpoint(folder.local_path / name)
        tensors = checkpoint.read(list(checkpoint.tensors))
        self._checkpoint = checkpoint
        self._text = tensors.pop("text")
        self._ends = tensors.pop("text_ends")
        self._row_of = tensors.pop("row_of")
        self._tensors = tensors
        self.count = len(self._ends)

    def row(self, number: int) -> Item:
        self._checkpoint.check_mapped()
        index = int(self._row_of[number])
        # Copies, which the trainer may change.
        return {**self._entry(number), **{n: t[index].clone() for n, t in self._tensors.items()}}

    def _entry(self, number: int) -> Item:
        start = int(self._ends[number - 1]) if number else 0
        entry: Item = json.loads(bytes(self._text[start : int(self._ends[number])].tolist()))
        return entry

    def read_keys(self) -> Sequence[str]:
        self._checkpoint.check_mapped()
        return [self._entry(number)["key"] for number in range(self.count)]


_OPENERS: dict[str, Any] = {
    "parquet": _ParquetRows,
    "safetensors": _SafetensorsRows,
    "keys": _ParquetRows,
}
