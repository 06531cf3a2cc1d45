"""Writes files under free names: a name appears with its whole contents, or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

from .atomic_write import naming, replacing


def write_new(folder: Path, candidates: Iterable[Path], write: Callable[[Path], object]) -> Path:
    """Call *write* with a path below *folder*, then give that file the first free name.

    Two processes never get the same name, and a process that is killed leaves none behind. All
    *candidates* are on the file system of *folder*; raises FileExistsError if all are taken.
    """
    candidates = iter(candidates)
    first = next(candidates)
    finished = folder / f".{secrets.token_hex(8)}.partial"
    with naming(first):
        try:
            with replacing(finished) as partial:
                write(partial)
            for path in itertools.chain([first], candidates):
                if _take(finished, path):
                    return path
        finally:
            with contextlib.suppress(FileNotFoundError):
                finished.unlink()
    raise FileExistsError(f"all names in {folder} are taken")


def _take(finished: Path, path: Path) -> bool:
    """Give the file this name, unless it is taken."""
    try:
        os.link(finished, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        return _take_under_lock(finished, path)
    return True


def _take_under_lock(finished: Path, path: Path) -> bool:
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.touch(exist_ok=False)
    except FileExistsError:  # another process takes this name, or was killed while it did
        return False
    try:
        if path.exists():
            return False
        finished.rename(path)
    finally:
        lock.unlink()
    return True
