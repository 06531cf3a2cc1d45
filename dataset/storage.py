"""Folders and files on a disk or an object store, through fsspec: ``s3://``, ``gs://``, ``hf://``.

A file appears whole or not at all: on a disk it is written beside its place and renamed, on an
object store the PUT is the commit.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from fsspec.core import url_to_fs

from ..host.model_folders import walk
from ..sd2.errors import SD2ClipError

ATTEMPTS = 4
"""How often an operation on an object store is tried."""

DELAY = 0.5
"""Seconds before the second attempt; doubled for each further one."""

PARTIAL = ".partial"
STALE_AFTER = 24 * 3600
"""Seconds after which the partial file of a process on another machine is a leftover."""

Result = TypeVar("Result")


class StorageError(SD2ClipError):
    """A file or folder cannot be read, written or listed."""


@dataclass(frozen=True)
class FileInfo:
    """A file below a folder."""

    name: str
    """Relative to the folder, with ``/`` between parts."""
    size: int
    version: str
    """Changes when the content changes: the store's ETag, or the modification time."""


@dataclass(frozen=True)
class Folder:
    """A folder that can be sent to other processes: nothing but its URL is pickled."""

    url: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            fs, path = url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # the protocol's package is missing, or unknown
            raise StorageError(f"{self.url} cannot be opened: {error}") from error
        return fs, path.rstrip("/") or "/"

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a disk of this machine."""
        protocol = self._opened[0].protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    @property
    def local_path(self) -> Path:
        """The folder's path; only for a local one."""
        assert self.is_local
        return Path(self._opened[1])

    def path(self, name: str) -> str:
        """The path of a file below the folder, as its file system spells it."""
        folder = self._opened[1]
        return posixpath.join(folder, name) if name else folder

    def files(self) -> list[FileInfo]:
        """List all files below the folder in order of their names; empty if there is no folder."""
        return self._remote("listed", "", self._files)

    def _files(self) -> list[FileInfo]:
        fs, folder = self._opened
        if self.is_local:
            return sorted(self._local_files(), key=lambda file: file.name)
        fs.invalidate_cache()
        found = fs.find(folder, detail=True)
        skip = len(folder) + 1
        return [FileInfo(path[skip:], *_identity(info)) for path, info in sorted(found.items())]

    def _local_files(self) -> Iterator[FileInfo]:
        folder = self.local_path

        def fail(error: OSError) -> None:
            raise StorageError(f"{error.filename} cannot be read: {error.strerror}") from error

        if folder.is_dir():
            for root, _, names in walk(folder, fail):
                for name in names:
                    path = Path(root, name)
                    with contextlib.suppress(FileNotFoundError):  # another process removed it
                        stat = path.stat()
                        yield FileInfo(
                            path.relative_to(folder).as_posix(), stat.st_size, str(stat.st_mtime_ns)
                        )

    def info(self, name: str = "") -> FileInfo | None:
        """Describe one file; None if it does not exist or is a folder."""
        fs, path = self._opened[0], self.path(name)

        def look() -> FileInfo | None:
            if self.is_local:
                stat = os.stat(path)
                if not os.path.isfile(path):
                    return None
                return FileInfo(name, stat.st_size, str(stat.st_mtime_ns))
            fs.invalidate_cache()
            found = fs.info(path)
            return FileInfo(name, *_identity(found)) if found["type"] == "file" else None

        try:
            return self._remote("read", name, look)
        except FileNotFoundError:
            return None

    def glob(self) -> list[str]:
        """Return the URLs that match the folder's own name as a pattern."""
        fs, pattern = self._opened
        found = self._remote("listed", "", lambda: sorted(fs.glob(pattern)))
        return [path if self.is_local else cast(str, fs.unstrip_protocol(path)) for path in found]

    def open(self, name: str = "") -> BinaryIO:
        """Open a file for reading. Raises ``FileNotFoundError`` if it does not exist."""
        fs, path = self._opened[0], self.path(name)
        if self.is_local:
            return open(path, "rb", buffering=1 << 20)
        return self._remote("read", name, lambda: cast(BinaryIO, fs.open(path, "rb")))

    def path_or_file(self, name: str) -> str | BinaryIO:
        """Return what a library opens best: the path on a disk, else an open file."""
        return self.path(name) if self.is_local else self.open(name)

    def read(self, name: str = "") -> bytes:
        """Read a whole file. Raises ``FileNotFoundError`` if it does not exist."""
        fs, path = self._opened[0], self.path(name)
        return self._remote("read", name, lambda: cast(bytes, fs.cat_file(path)))

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file."""

        def write(file: BinaryIO) -> None:
            file.write(data)

        self.create(name, write)

    def create(self, name: str, write: Callable[[BinaryIO], None]) -> None:
        """Create or replace a file with what *write* writes to a file object.

        Raises ``StorageError`` if the disk or the store does not take it; then nothing is changed.
        """
        try:
            if self.is_local:
                self._create_local(Path(self.path(name)), write)
                return
            with tempfile.TemporaryDirectory(prefix="sd2_clip-") as folder:
                spool = Path(folder, "file")
                with spool.open("wb") as file:
                    write(file)
                fs, path = self._opened[0], self.path(name)
                self._remote("written", name, lambda: fs.put_file(str(spool), path))
        except OSError as error:
            raise StorageError(
                f"{self.path(name)} cannot be written: {error.strerror or error}"
            ) from error

    def _create_local(self, path: Path, write: Callable[[BinaryIO], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{process_name()}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            with partial.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        fs, path = self._opened[0], self.path(name)
        with contextlib.suppress(FileNotFoundError):
            self._remote("removed", name, lambda: fs.rm_file(path))

    def remove_stale_partials(self) -> None:
        """Remove the partial files of processes that were killed.

        A process of this machine that no longer runs has left them, or, after a day, any other.
        """
        if not self.is_local or not self.local_path.is_dir():
            return
        for path in self.local_path.rglob(f".*{PARTIAL}"):
            with contextlib.suppress(FileNotFoundError):
                old = time.time() - path.stat().st_mtime > STALE_AFTER
                if old or process_ended(path.name.split(".")[-3]):
                    path.unlink()

    def _remote(self, done: str, name: str, operation: Callable[[], Result]) -> Result:
        """Run *operation*; on an object store, try again after an error that may be temporary."""
        attempts = 1 if self.is_local else ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                return operation()
            except (FileNotFoundError, PermissionError, StorageError):
                raise
            except Exception as error:  # each store has its own family of errors
                if self.is_local:
                    raise
                if attempt == attempts:
                    raise StorageError(
                        f"{self.path(name)} cannot be {done} after {attempts} attempts: "
                        f"{type(error).__name__}: {error}"
                    ) from error
            time.sleep(DELAY * 2 ** (attempt - 1))
        raise AssertionError("not reached")


def _identity(info: dict[str, Any]) -> tuple[int, str]:
    """Size and version of a file, of what its file system says about it."""
    names = ("ETag", "etag", "blob_id", "md5Hash", "LastModified", "last_modified", "mtime")
    version = next((str(info[name]) for name in names if info.get(name) is not None), "")
    return int(info.get("size") or 0), version.strip('"')


def process_name() -> str:
    """Name this process among those of all machines, without dots."""
    return f"{socket.gethostname().replace('.', '_')}-{os.getpid()}"


def process_ended(name: str) -> bool:
    """Whether the process of that name is known to have ended: it ran on this machine."""
    host, _, number = name.rpartition("-")
    if host != process_name().rpartition("-")[0] or not number.isdecimal() or os.name == "nt":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
