"""Finds textual inversions by name and caches them; an unusable one is a result, not an error.

The search order is fixed, so that a name means the same file everywhere: folders as given, each
before its subfolders, subfolders by name; in a folder the exact name first, then
``EMBEDDING_SUFFIXES`` in order.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SD2ClipError, and_more
from ..files.file_hash import file_digest
from ..files.file_kinds import EMBEDDING_SUFFIXES
from ..files.path_inside import OutsideFolderError, path_inside

if TYPE_CHECKING:
    import torch

_BACKSLASH = re.compile(r"(?<=[^\\/])\\(?=[^\\/])")

# A folder that changed this recently may change again without a new time stamp.
_CLOCK_TICK_NS = 2_000_000_000


@dataclass(frozen=True, eq=False)
class Embedding:
    """A usable textual inversion; ``vectors`` (n, width), float32, are shared and read-only."""

    path: Path
    sha256: str
    vectors: "torch.Tensor"
    note: str = ""


@dataclass(frozen=True)
class Unusable:
    """Why a name has no usable embedding; ``path`` is None if there is no file."""

    path: Path | None
    reason: str


def load_embedding(name: str, folders: Sequence[str], width: int, key: str) -> Embedding | Unusable:
    """Load the embedding *name*; its file is read again only if it has changed."""
    path = find_embedding(name, folders)
    if path is None:
        if not folders:
            where = "--embeddings DIR, or --models DIR for a workflow"
            return Unusable(None, f"no folder of embeddings is given. Give one with {where}")
        return Unusable(None, f"no file of this name in {', '.join(folders)}")
    try:
        stat = path.stat()
        return _read(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino), width, key)
    except OSError as error:
        return Unusable(path, f"it cannot be read ({error})")


def find_embedding(name: str, folders: Sequence[str]) -> Path | None:
    """Find the file of *name*, which may have subfolders but never leads out of *folders*."""
    if not name:
        return None
    # A backslash between two names may be Windows's separator, also on other systems.
    spellings = dict.fromkeys((name, _BACKSLASH.sub("/", name)))
    for spelling in spellings:
        for folder in folders:
            for inner in _subfolders(folder):
                if path := _file_in(inner, spelling):
                    return path
    return None


def embedding_names(folders: Sequence[str]) -> list[str]:
    """List the names of all files that may be embeddings, without folder and extension, sorted."""
    names: set[str] = set()
    for folder in folders:
        for inner in _subfolders(folder):
            with contextlib.suppress(OSError), os.scandir(inner) as entries:
                names.update(
                    stem
                    for stem, extension in (os.path.splitext(entry.name) for entry in entries)
                    if extension.lower() in EMBEDDING_SUFFIXES
                )
    return sorted(names)


def _file_in(folder: str, name: str) -> Path | None:
    try:
        path = str(path_inside(Path(os.path.abspath(folder)), name))
    except OutsideFolderError:
        return None
    for extension in ("", *EMBEDDING_SUFFIXES):
        if os.path.isfile(path + extension):
            return Path(path + extension)
    return None


_walks: dict[str, tuple[int, dict[str, int]]] = {}


def _subfolders(folder: str) -> list[str]:
    """List *folder* and all folders below it; walk them again only if one of them has changed."""
    if folder in _walks:
        walked, times = _walks[folder]
        if all(
            _changed(path) == then and then < walked - _CLOCK_TICK_NS
            for path, then in times.items()
        ):
            return list(times)
    walked = time.time_ns()
    times = {path: _changed(path) for path in _walk(folder)}
    _walks[folder] = (walked, times)
    return list(times)


def _walk(folder: str) -> Iterator[str]:
    pending = [folder]
    seen: set[str] = set()
    while pending:
        path = pending.pop()
        target = os.path.realpath(path)
        if target in seen:
            continue  # a link to a folder above itself
        seen.add(target)
        yield path
        try:
            with os.scandir(path) as entries:
                inner = sorted(entry.path for entry in entries if entry.is_dir())
        except OSError:
            continue  # missing or unreadable: it holds no embedding for us
        pending.extend(reversed(inner))


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=256)
def _read(path: Path, version: tuple[int, ...], width: int, key: str) -> Embedding | Unusable:
    """Read a file; *version* is unused, but makes an edited file a new entry of the cache."""
    from .textual_inversion_file import read_vectors

    try:
        found = read_vectors(path, width, key)
        digest = file_digest(path)
    except SD2ClipError as error:
        return Unusable(path, str(error).removeprefix(f"{path}: "))
    notes = [f"{found.dropped} of its vectors contain nan or inf"] if found.dropped else []
    if found.left_out:
        names = and_more([repr(name[:100]) for name in found.left_out], 4)
        notes.append(
            f"its file also holds {names}, which are left out: save each embedding to its own file"
        )
    return Embedding(path, digest, found.rows, "; ".join(notes))
