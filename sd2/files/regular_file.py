"""Says what stands in the place of a file: reading a pipe or a device might never end."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import UnreadableFileError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def special_kind(path: Path) -> str | None:
    """What *path* is, or links to, if that is not a file: "a folder"; None if it does not exist."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "something special")


def check_regular_file(path: Path) -> None:
    """Raise UnreadableFileError if *path* exists and is not a file."""
    kind = special_kind(path)
    if kind is not None:
        raise UnreadableFileError(f"{path} is {kind}, not a file.")
