"""Joins a folder and a name that a user or a request gives, and never leads out of the folder."""

import os
from pathlib import Path

from ..errors import SD2ClipError


class OutsideFolderError(SD2ClipError, ValueError):
    """A name leads out of its folder, or is not the name of a file below it."""


def path_inside(folder: Path, name: str, *, untrusted: bool = False) -> Path:
    """*folder*/*name*, with ``/`` or ``\\`` between parts; ``..`` is resolved by spelling.

    Links below *folder* are followed wherever they lead: people keep models on other disks, and
    caches of downloads consist of links. *untrusted* is for names that come over the network:
    links that leave *folder* are refused, and so is ``:``, Windows' mark of drives and streams.
    """
    root = os.path.abspath(folder)
    name = name.replace("\\", "/")
    path = os.path.abspath(os.path.join(root, name))
    below = path.startswith(os.path.join(root, ""))
    if not below or "\0" in name or (untrusted and ":" in name):
        raise OutsideFolderError(f"{name!r} is not the name of a file below the folder.")
    if untrusted and not Path(path).resolve().is_relative_to(Path(root).resolve()):
        raise OutsideFolderError(f"{name!r} leads out of the folder by a link.")
    return folder / os.path.relpath(path, root)
