"""Files of the user on disk: never outside their folder, never half written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path, PurePosixPath, PureWindowsPath


class OutsideFolderError(ValueError):
    """A name that leads out of its folder, or is no file name at all."""


def inside(folder: Path, name: str) -> Path:
    """*folder*/*name*, with ``/`` or ``\\`` between parts.

    Refused: absolute names, drives, ``..``, NUL, and symbolic links that leave *folder*.
    """
    name = name.replace("\\", "/")
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    if (
        not parts
        or "\0" in name
        or ".." in parts
        or name.startswith("/")
        or windows.drive
        or any(":" in part for part in parts)
    ):
        raise OutsideFolderError(f"{name!r} is no name of a file below the folder.")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OutsideFolderError(f"{name!r} leads out of the folder.")
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace *path* in one step: after a crash it holds the old or the new bytes, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
