"""Finding model files by name in a host's folders, and never outside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..sd2.errors import SD2ClipError, and_more
from ..sd2.files.file_kinds import WEIGHT_SUFFIXES
from ..sd2.files.path_inside import OutsideFolderError, path_inside
from .interface import Host

CLIP_KINDS = ("text_encoders", "clip", "checkpoints", "diffusers")
"""Where a text encoder may lie, in the order in which a name is looked for."""

LISTED = 6  # files that an error names


class ModelNotFoundError(SD2ClipError):
    """A file name that no folder of its kind holds, or that points outside them."""


def walk(
    folder: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` in sorted order, following links but never round a loop of them.

    *onerror* is told of folders that cannot be read; without it they are passed over.
    """
    seen = set()
    for root, directories, files in os.walk(folder, followlinks=True, onerror=onerror):
        real = os.path.realpath(root)
        if real in seen:
            directories.clear()
            continue
        seen.add(real)
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        yield root, directories, sorted(files)


def weight_files(folder: Path, suffixes: Sequence[str] = WEIGHT_SUFFIXES) -> list[str]:
    """Names of all model files below *folder*, relative to it, with ``/`` between parts."""
    return [
        Path(root, name).relative_to(folder).as_posix()
        for root, _, files in walk(folder)
        for name in files
        if name.lower().endswith(tuple(suffixes))
    ]


def diffusers_folders(folder: Path) -> list[str]:
    """Names of the folders below *folder* that hold a diffusers pipeline or a bare encoder."""
    found = []
    for root, directories, files in walk(folder):
        if root != str(folder) and ("model_index.json" in files or "config.json" in files):
            found.append(Path(root).relative_to(folder).as_posix())
            directories.clear()  # its parts are not choices of their own
    return found


def list_models(host: Host, kinds: Sequence[str]) -> list[str]:
    """Every name a loader node offers, of all *kinds*.

    Where two kinds hold the same name, the later one is listed as ``kind/name``; of two folders of
    one kind the first counts, as in ComfyUI.
    """
    kind_of: dict[str, str] = {}
    seen = set()  # one folder may serve for several kinds
    for kind in kinds:
        find = diffusers_folders if kind == "diffusers" else weight_files
        for folder in host.model_folders(kind):
            if (find, folder) in seen:
                continue
            seen.add((find, folder))
            for name in find(folder):
                if kind_of.setdefault(name, kind) != kind:
                    kind_of[f"{kind}/{name}"] = kind
    return sorted(kind_of, key=str.lower)


def locate(folder: Path, name: str) -> Path | None:
    """*folder*/*name* if that exists and its spelling does not lead out of *folder*."""
    try:
        path = path_inside(Path(os.path.abspath(folder)), name)
    except OutsideFolderError:
        return None
    return path if path.exists() else None


def resolve_model(host: Host, kinds: Sequence[str], name: str) -> Path:
    """The file or folder that *name* stands for; both path separators are accepted."""
    name = name.replace("\\", "/")
    folders = [(kind, folder) for kind in kinds for folder in host.model_folders(kind)]
    for kind, folder in folders:
        for spelling in (name, name.removeprefix(f"{kind}/")):
            path = locate(folder, spelling)
            if path is not None:
                return path
    searched = ", ".join(dict.fromkeys(str(folder) for _, folder in folders)) or "none is set up"
    there = list_models(host, kinds)
    raise ModelNotFoundError(
        f"{name!r} is in none of the model folders ({searched}). Put the file there, or choose one "
        f"that is there: {and_more(there, LISTED) or 'there are none'}."
    )
