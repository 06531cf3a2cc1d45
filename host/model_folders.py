"""Finds model files by name in a host's folders, and never outside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..sd2.errors import SD2ClipError, and_more
from ..sd2.files.file_kinds import WEIGHT_SUFFIXES
from ..sd2.files.path_inside import OutsideFolderError, path_inside
from .interface import Host

CLIP_KINDS = ("text_encoders", "clip", "checkpoints", "diffusers")
"""Kinds of folders that may hold a text encoder, in search order."""

LISTED = 6  # files named in an error


class ModelNotFoundError(SD2ClipError):
    """No folder of its kind holds a file of this name, or the name points outside them."""


def walk(
    folder: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as ``os.walk`` does, in sorted order, following links but no loops of links.

    *onerror* is called for folders that cannot be read; without it they are skipped.
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
    """List all model files below *folder*, relative to it, with ``/`` as the separator."""
    return [
        Path(root, name).relative_to(folder).as_posix()
        for root, _, files in walk(folder)
        for name in files
        if name.lower().endswith(tuple(suffixes))
    ]


def diffusers_folders(folder: Path) -> list[str]:
    """List the folders below *folder* that hold a diffusers pipeline or a single encoder."""
    found = []
    for root, directories, files in walk(folder):
        if root != str(folder) and ("model_index.json" in files or "config.json" in files):
            found.append(Path(root).relative_to(folder).as_posix())
            directories.clear()  # its components are not listed themselves
    return found


def list_models(host: Host, kinds: Sequence[str]) -> list[str]:
    """List every name that a loader node offers, of all *kinds*.

    If two kinds hold the same name, the later one is listed as ``kind/name``; of two folders of one
    kind, the first has priority, as in ComfyUI.
    """
    kind_of: dict[str, str] = {}
    seen = set()  # one folder may be of several kinds
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
    """Return *folder*/*name* if it exists and its spelling does not lead out of *folder*."""
    try:
        path = path_inside(Path(os.path.abspath(folder)), name)
    except OutsideFolderError:
        return None
    return path if path.exists() else None


def resolve_model(host: Host, kinds: Sequence[str], name: str) -> Path:
    """Return the file or folder of this name; both path separators are accepted."""
    name = name.replace("\\", "/")
    folders = [(kind, folder) for kind in kinds for folder in host.model_folders(kind)]
    for kind, folder in folders:
        for spelling in (name, name.removeprefix(f"{kind}/")):
            path = locate(folder, spelling)
            if path is not None:
                return path
    if not folders:
        raise ModelNotFoundError(
            f"{name!r} was not found: there is no models folder for it ({', '.join(kinds)}). Make "
            "one in the models folder, or give one with --models DIR."
        )
    searched = and_more(dict.fromkeys(str(folder) for _, folder in folders), len(folders))
    available = [] if _is_shared(host, kinds) else list_models(host, kinds)
    choice = f", or choose one of their files: {and_more(available, LISTED)}" if available else ""
    raise ModelNotFoundError(
        f"{name!r} is in none of the model folders ({searched}). Put the file there{choice}."
    )


def _is_shared(host: Host, kinds: Sequence[str]) -> bool:
    """Whether files of other kinds are in the folders of *kinds* too: text encoders."""
    own = {folder for kind in kinds for folder in host.model_folders(kind)}
    others = [kind for kind in CLIP_KINDS if kind not in kinds]
    return any(not own.isdisjoint(host.model_folders(kind)) for kind in others)
