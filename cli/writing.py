"""Writing results: said beforehand if it cannot be, and whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..sd2.errors import OptionError

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


def write_safetensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write *path*, whole or not at all, readable for whom the user's files are readable."""
    from safetensors.torch import save_file

    check_writable(path.parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        save_file(dict(tensors), partial, dict(metadata))
        umask = os.umask(0)  # there is no other way to ask
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors keeps its files to their owner
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
