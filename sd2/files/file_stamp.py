"""Notices that a file was changed after it was opened, before its bytes are used.

Touching a mapped page that a truncated file no longer has ends the process, and the pages of a
file that is overwritten hold its new bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..errors import UnreadableFileError


@dataclass(frozen=True)
class FileStamp:
    """Size and time of modification that a file had when it was opened."""

    path: Path
    modified_ns: int
    size: int
    identity: tuple[int, int] = field(compare=False, repr=False)
    """Device and inode; some network file systems give a file others each time."""

    @classmethod
    def of(cls, path: Path, file: BinaryIO | None = None) -> FileStamp:
        """Read the stamp of *path*, or of the *file* that was opened there."""
        status = os.stat(path if file is None else file.fileno())
        return cls(path, status.st_mtime_ns, status.st_size, (status.st_dev, status.st_ino))

    def is_current(self) -> bool:
        """Tell whether the file of this path still has this stamp."""
        try:
            return FileStamp.of(self.path) == self
        except OSError:
            return False

    def open(self) -> BinaryIO:
        """Open the file. Raises UnreadableFileError if it was changed, OSError if it is gone."""
        file = self.path.open("rb")
        try:
            self._compare(os.stat(file.fileno()))
        except BaseException:
            file.close()
            raise
        return file

    def check_mapped(self) -> None:
        """Raise UnreadableFileError if bytes that were mapped from the file are no longer there.

        A file that was removed, or that another one replaced, stays as it was for its mappings.
        """
        try:
            now = os.stat(self.path)
        except OSError:
            return
        if (now.st_dev, now.st_ino) == self.identity:
            self._compare(now)

    def _compare(self, now: os.stat_result) -> None:
        if now.st_size != self.size or now.st_mtime_ns != self.modified_ns:
            sizes = f": it had {self.size:,} bytes and now has {now.st_size:,}"
            raise UnreadableFileError(
                f"{self.path} was changed after it was opened"
                f"{sizes if now.st_size != self.size else ''}. Load it again when it is complete."
            )
