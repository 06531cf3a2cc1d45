"""Chooses the distinct captions of a data set: the first of each, by the identity of its tokens.

What was chosen stays: when keys are added, only captions that are new are written, to new files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np

from .inputs.find import Inputs
from .manifest import MANIFEST, READERS, IncompleteError, Manifest, read_manifest
from .storage import FileInfo, Folder

CONTENT_ID = "content_id"

CHOSEN = "_chosen.json"
"""Which keys the distinct captions were chosen from, and their files."""

FILE = re.compile(r"(\d{6,})-([0-9a-f]{20})\.parquet")
"""Name of a file of distinct captions: its number, and the digest of its bytes."""

ROWS = 100_000
"""Captions of a file."""

Ids = np.ndarray[Any, np.dtype[np.uint64]]
"""Content ids, (N, 2): 16 bytes each."""


def choose_distinct(keys: Folder, out: Folder, *, verify: bool = False) -> Inputs:
    """Write the distinct captions of *keys* into *out*, with their content ids as keys.

    Memory holds about 20 bytes for each caption. Return the files, for an engine to encode.
    *verify* reads the files of before again; raises ``IncompleteError`` for damaged ones.
    """
    manifest = read_manifest(keys)
    digest = hashlib.sha256(keys.read(MANIFEST)).hexdigest()
    files = _files(out)
    if verify:
        _verify(out, files)
    names = [file.name for file in files]
    if _chosen(out) != {"keys_sha256": digest, "files": names}:
        _write_new(keys, manifest, out, files)
        files = _files(out)
        names = [file.name for file in files]
        chosen = {"keys_sha256": digest, "files": names}
        out.write(CHOSEN, json.dumps(chosen).encode())
    return Inputs(out, files)


def _files(out: Folder) -> list[FileInfo]:
    """List the files; their version is in their names, so that it is equal in every run."""
    found = [(FILE.fullmatch(file.name), file) for file in out.files()]
    return [FileInfo(file.name, file.size, match[2]) for match, file in found if match]


def _chosen(out: Folder) -> Any:
    try:
        return json.loads(out.read(CHOSEN))
    except (FileNotFoundError, ValueError):
        return None


def _verify(out: Folder, files: Sequence[FileInfo]) -> None:
    damaged = [
        file.name
        for file in files
        if not hashlib.sha256(out.read(file.name)).hexdigest().startswith(file.version)
    ]
    for name in damaged:
        out.remove(name)
    if damaged:
        raise IncompleteError(
            f"{out.url}: {len(damaged)} files are damaged: {', '.join(damaged[:5])}. Run sd2-clip "
            "encode again with the same options; it writes them again."
        )


def first_occurrences(ids: Ids) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mark the first of each group of equal ids.

    Ids are hashes: their first byte divides them into 256 parts, each of which is sorted.
    """
    first = np.zeros(len(ids), dtype=np.bool_)
    part_of = ids.view(np.uint8)[:, 0].copy()
    for part in range(256):
        rows = np.flatnonzero(part_of == part)
        some = ids[rows]
        order = np.lexsort((some[:, 1], some[:, 0]))  # stable
        some = some[order]
        new = np.ones(len(rows), dtype=np.bool_)
        new[1:] = (some[1:] != some[:-1]).any(1)
        first[rows[order[new]]] = True
    return first


def _write_new(keys: Folder, manifest: Manifest, out: Folder, before: Sequence[FileInfo]) -> None:
    """Write the captions of *keys* that no file of before has."""
    import pyarrow as pa

    known = [_ids(table["key"]) for table in _read(out, [f.name for f in before], ["key"])]
    names = [name for name, _ in manifest.fragments]
    old = sum(map(len, known))
    ids = np.empty((old + manifest.counts.captions, 2), dtype=np.uint64)
    end = 0
    for some in known:
        ids[end : end + len(some)] = some
        end += len(some)
    for table in _read(keys, names, [CONTENT_ID]):
        ids[end : end + len(table)] = _ids(table[CONTENT_ID])
        end += len(table)
    new = first_occurrences(ids)[old:]
    del ids

    taken = {int(file.name.partition("-")[0]) for file in before}
    numbers = (number for number in count() if number not in taken)
    waiting: list[Any] = []
    start = 0
    needed = []
    for name, rows in manifest.fragments:
        if new[start : start + rows].any():
            needed.append((name, start))
        start += rows
    tables = _read(keys, [name for name, _ in needed], [CONTENT_ID, "caption"])
    for (_, start), table in zip(needed, tables, strict=True):
        waiting.append(table.filter(pa.array(new[start : start + len(table)])))
        if sum(map(len, waiting)) >= ROWS:
            table = pa.concat_tables(waiting)
            _write(out, next(numbers), table.slice(0, ROWS))
            waiting = [table.slice(ROWS)]
    table = pa.concat_tables(waiting) if waiting else ()
    if len(table):
        _write(out, next(numbers), table)


def _ids(column: Any) -> Ids:
    """Turn a column of content ids, 32 hexadecimal digits each, into numbers."""
    digits = b"".join(
        chunk.buffers()[2].to_pybytes()[32 * chunk.offset : 32 * (chunk.offset + len(chunk))]
        for chunk in column.chunks
        if len(chunk)
    )
    return np.frombuffer(bytes.fromhex(digits.decode()), dtype=np.uint64).reshape(-1, 2)


def _read(folder: Folder, names: Sequence[str], columns: list[str]) -> Iterator[Any]:
    """Read columns of parquet files, in order, some at a time."""
    from pyarrow import ArrowException, parquet

    def read(name: str) -> Any:
        try:
            with parquet.ParquetFile(folder.path_or_file(name)) as file:
                return file.read(columns=columns)
        except (ArrowException, OSError) as error:
            raise IncompleteError(
                f"{folder.path(name)} cannot be read ({error}). Run sd2-clip encode again with "
                "--verify, and once more without: it writes damaged files again."
            ) from error

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(names), READERS):
            yield from pool.map(read, names[start : start + READERS])


def _write(out: Folder, number: int, table: Any) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    table = table.select([CONTENT_ID, "caption"]).rename_columns(["key", "caption"])
    parquet.write_table(table.combine_chunks(), sink, row_group_size=5000, use_dictionary=False)
    data = sink.getvalue().to_pybytes()
    out.write(f"{number:06}-{hashlib.sha256(data).hexdigest()[:20]}.parquet", data)
