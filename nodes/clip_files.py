"""Says which files of the loader node hold SD2's text encoder, from their headers."""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import host
from ..host.model_folders import CLIP_KINDS, ModelNotFoundError, list_models, resolve_model
from ..sd2.errors import SD2ClipError, and_more
from ..sd2.files.file_kinds import WEIGHT_SUFFIXES

MOST_OFFERED = 4
"""Files offered in place of a wrong one; of more than these, one fewer, and their number."""
SEARCH_SECONDS = 1.0
"""Time limit of the search for files to choose instead of a wrong one."""


class ClipNotFoundError(ModelNotFoundError):
    """No model folder holds a file of this name. ``summary`` leaves out the files to choose."""

    def __init__(self, summary: str, choice: str) -> None:
        super().__init__(f"{summary} Put the file there, or {choice}.")
        self.summary = f"{summary} Put the file there, or choose another."


def resolve_clip(name: str) -> Path:
    """Find the file or folder of this name; the error suggests files with SD2's encoder."""
    current = host.current()
    try:
        return resolve_model(current, CLIP_KINDS, name)
    except ModelNotFoundError:
        folders = [str(folder) for kind in CLIP_KINDS for folder in current.model_folders(kind)]
        if not folders:
            raise
        searched = and_more(dict.fromkeys(folders), len(folders))
        good = and_more(suggest_files(name), MOST_OFFERED - 1)
        choice = f"choose one that holds SD2's text encoder: {good}" if good else "choose another"
        summary = f"{name!r} is in none of the model folders ({searched})."
        raise ClipNotFoundError(summary, choice) from None


def inspect_file(path: Path) -> dict[str, Any]:
    """Return what a file holds as JSON values; ``{"error", "kind"}`` if it is not SD2's encoder."""
    from ..sd2.files.checkpoint import fingerprint

    return _inspect(path, str(fingerprint(path)))


def suggest_files(wrong: str) -> list[str]:
    """List names of files that hold SD2's text encoder, as far as they are found quickly.

    Names with the most words of the *wrong* one come first.
    """
    current = host.current()
    started = time.monotonic()
    good: list[str] = []
    for name in list_models(current, CLIP_KINDS):
        if time.monotonic() - started > SEARCH_SECONDS:
            break
        try:
            if name != wrong and "error" not in inspect_file(
                resolve_model(current, CLIP_KINDS, name)
            ):
                good.append(name)
        except (SD2ClipError, OSError):
            continue
    words = _words(wrong)
    return sorted(good, key=lambda name: -len(words & _words(name)))


def offer_files(wrong: str) -> dict[str, Any]:
    """Return a few of the files to choose instead of a wrong one, and how many more there are."""
    good = suggest_files(wrong)
    offered = good if len(good) <= MOST_OFFERED else good[: MOST_OFFERED - 1]
    return {"alternatives": offered, "more_alternatives": len(good) - len(offered)}


def _words(name: str) -> set[str]:
    stem, suffix = os.path.splitext(name.lower())
    return set(re.findall(r"[^\W\d_]{2,}|\d+", stem if suffix in WEIGHT_SUFFIXES else name.lower()))


@lru_cache(maxsize=512)
def _inspect(path: Path, version: object) -> dict[str, Any]:
    """Detect a file; *version* is unused, but makes an edited file a new entry of the cache."""
    from ..sd2.detection.detect import detect
    from ..sd2.files.checkpoint import open_checkpoint

    try:
        checkpoint = open_checkpoint(path)
        found = detect(checkpoint).as_json()
    except SD2ClipError as error:
        return {"error": str(error), "kind": type(error).__name__}
    del found["path"]  # users of the page need not know the server's folders
    return found | {"bytes": sum(file.stat().st_size for file in checkpoint.files)}
