"""The manifest of a folder of embeddings: what they were made with, and what belongs together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..sd2.errors import SD2ClipError, and_more
from ..sd2.files.atomic_write import replacing
from ..version import __version__

MANIFEST = "manifest.json"


class OutFolderError(SD2ClipError):
    """A folder for embeddings that holds something else, or embeddings of other settings."""


class IncompleteError(SD2ClipError):
    """A folder in which not all captions have been encoded."""


def check_out(out: Path, settings: dict[str, Any]) -> None:
    """That *out* is new, empty, or was begun with these settings."""
    path = out / MANIFEST
    if not path.exists():
        there = sorted(p.name for p in out.iterdir() if p.name[0] != ".") if out.is_dir() else []
        if there and MANIFEST not in there:
            raise OutFolderError(
                f"{out} holds other things ({and_more(there, 3)}), which embeddings could "
                "overwrite. Choose a new or empty folder."
            )
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))["settings"]
        names = [name for name in {**begun, **settings} if begun.get(name) != settings.get(name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutFolderError(
            f"{path} is no manifest of encoded captions ({error!r}). Choose a new or empty folder."
        ) from error
    if names:
        changes = "; ".join(f"{one}: {begun.get(one)}, now {settings.get(one)}" for one in names)
        raise OutFolderError(
            f"{out} holds captions encoded with other settings ({changes}). Choose a new or empty "
            "folder, or use the same checkpoint and settings to go on."
        )


def begin(out: Path, settings: dict[str, Any]) -> None:
    """Say in *out* what its shards are made with, unless that was said before."""
    check_out(out, settings)
    if not (out / MANIFEST).exists():
        write_manifest(out, settings)


def complete_set(out: Path) -> tuple[bytes, list[Path]]:
    """The index of a whole data set, and its shards. Raises ``IncompleteError``."""
    again = (
        f"Run sd2-clip encode CAPTIONS {out} again with the same options; it does what is missing."
    )
    try:
        manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        index = (out / manifest["index"]).read_bytes()
        shards = [out / name for name in manifest["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IncompleteError(
            f"{out} holds no complete set of encoded captions ({error!r}). {again}"
        ) from error
    missing = [path for path in shards if not path.exists()]
    if missing:
        found = f"{len(missing)} of {len(shards)} shards are not there"
        raise IncompleteError(f"{out}: {found}. {again}")
    return index, shards


def is_complete(out: Path) -> bool:
    """Whether *out* holds a whole data set."""
    try:
        complete_set(out)
    except IncompleteError:
        return False
    return True


def write_manifest(out: Path, settings: dict[str, Any], **about: Any) -> None:
    """Replace the manifest; *about* are the counts, the index and the shards of a whole set."""
    manifest = {"settings": settings, "version": __version__, **about}
    with replacing(out / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
