"""Writing files: said beforehand if it cannot be done, and whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    import torch


def check_writable(folder: Path) -> None:
    """Fail now, not after minutes of work, if nothing can be written to *folder*."""
    probe = folder / f".{secrets.token_hex(4)}.probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OptionError(
            f"Nothing can be written to {folder}: {error.strerror}. Choose another folder."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, whose file takes *path*'s place at the end; after an error, nothing does.

    It comes to be readable for whom the user's files are readable, and is on the disk before it
    replaces anything.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
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


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write *path*, whole or not at all; raises ``OptionError`` if the disk does not take it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with replacing(path) as partial:
            save_file(dict(tensors), partial, dict(metadata))
    except (OSError, SafetensorError) as error:  # a full disk is either
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise OptionError(f"{path} ({size:,} bytes) cannot be written: {error}") from error
