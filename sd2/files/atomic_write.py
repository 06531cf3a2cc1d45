"""Writes files whole or not at all, and tells beforehand if a folder cannot be written to."""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    import torch


_UNFINISHED = ".partial"


def check_writable(folder: Path) -> None:
    """Raise OptionError now, not after minutes of work, if *folder* cannot be written to."""
    probe = folder / f".{secrets.token_hex(4)}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OptionError(
            f"{folder} cannot be written to: {error.strerror}. Choose another folder."
        ) from error


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Check as ``check_writable``; an error within leaves no empty *folder* that was not there."""
    was_there = folder.exists()
    check_writable(folder)
    try:
        yield
    except BaseException:
        if not was_there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; at the end that file replaces *path*, after an error nothing does.

    It gets the mode of any new file of the user, and is on the disk before it replaces anything.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}{_UNFINISHED}")  # as short for a long name
    with naming(path):
        try:
            partial.touch(exist_ok=False)
            mode = partial.stat().st_mode
            yield partial
            partial.chmod(stat.S_IMODE(mode))  # safetensors keeps its files to their owner
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError within name *path*, not a hidden file beside it, or none."""
    try:
        yield
    except OSError as error:
        if error.filename is None or os.path.basename(os.fsdecode(error.filename)).startswith("."):
            error.filename, error.filename2 = str(path), None
        raise


def is_unfinished(path: Path) -> bool:
    """Whether *path* is a file that ``replacing`` has not finished."""
    return path.name.startswith(".") and path.suffix == _UNFINISHED


def write_bytes(path: Path, data: bytes) -> None:
    """Write *path*, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write *path*, whole or not at all; raises ``OptionError`` if that fails."""
    try:
        with replacing(path) as partial:
            save_tensors(partial, tensors, metadata)
    except OSError as error:
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise OptionError(
            f"{path} ({size:,} bytes) cannot be written: {error.strerror or error}."
        ) from error


def torch_bytes(value: object) -> bytes:
    """Return what ``torch.save`` writes. In memory, because a file's bytes depend on its name."""
    import torch

    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


def write_torch_file(path: Path, value: object) -> None:
    """Write *path* with ``torch.save``, whole or not at all; raises ``OptionError`` if that fails.

    For small values, which are packed in memory.
    """
    try:
        write_bytes(path, torch_bytes(value))
    except OSError as error:
        raise OptionError(f"{path} cannot be written: {error.strerror or error}.") from error


def save_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write a safetensors file; raises OSError if the disk does not take it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, dict(metadata))
    except SafetensorError as error:  # "… I/O error: No space left on device (os error 28)"
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
