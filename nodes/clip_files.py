"""Says which files of the loader node hold SD2's text encoder, from their headers."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import host
from ..host.model_folders import CLIP_KINDS, ModelNotFoundError, list_models, resolve_model
from ..sd2.errors import SD2ClipError, and_more

MOST_SUGGESTIONS = 3
SEARCH_SECONDS = 1.0
"""Time limit of the search for files to choose instead of a wrong one."""


def resolve_clip(name: str) -> Path:
    """Find the file or folder of this name; the error suggests files with SD2's encoder."""
    current = host.current()
    try:
        return resolve_model(current, CLIP_KINDS, name)
    except ModelNotFoundError:
        folders = [str(folder) for kind in CLIP_KINDS for folder in current.model_folders(kind)]
        if not folders:
            raise
        searched = and_more(dict.fromkeys(folders), len(folders)) or "none is configured"
        good = and_more(suggest_files(name))
        choice = f"choose one that holds SD2's text encoder: {good}" if good else "choose another"
        raise ModelNotFoundError(
            f"{name!r} is in none of the model folders ({searched}). Put the file there, or "
            f"{choice}."
        ) from None


def inspect_file(path: Path) -> dict[str, Any]:
    """Return what a file holds as JSON values; ``{"error", "kind"}`` if it is not SD2's encoder."""
    from ..sd2.files.checkpoint import fingerprint

    return _inspect(path, str(fingerprint(path)))


def suggest_files(wrong: str) -> list[str]:
    """List names of files that hold SD2's text encoder, as far as they are found quickly."""
    current = host.current()
    started = time.monotonic()
    good: list[str] = []
    for name in list_models(current, CLIP_KINDS):
        if len(good) == MOST_SUGGESTIONS or time.monotonic() - started > SEARCH_SECONDS:
            break
        try:
            if name != wrong and "error" not in inspect_file(
                resolve_model(current, CLIP_KINDS, name)
            ):
                good.append(name)
        except (SD2ClipError, OSError):
            continue
    return good


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
