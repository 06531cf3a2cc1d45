"""What is done: a sidecar for each fragment, and a manifest when all of them are there.

    OUT/_plan.json               settings, input files and their fragments
    OUT/captions-<id>.parquet    the embeddings of a fragment (or another ending)
    OUT/empty.parquet            that of the empty caption
    OUT/_done/<id>.json          sidecar: the fragment's files are whole, and what is in them
    OUT/manifest.json            settings, counts and the fragments, in order

A manifest stands until that of a new set is whole. Files are not changed once they are written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ..sd2.errors import SD2ClipError, fault
from ..version import __version__
from .storage import FileInfo, Folder

MANIFEST = "manifest.json"
DONE = "_done"
EMPTY_ID = "empty"
"""Of the fragment that is the empty caption."""

OUTPUT = re.compile(rf"captions-[0-9a-f]{{20}}\..*|[0-9a-f]{{32}}(-sd2x)?\.pt|{DONE}/.*\.json")
"""Names of the files that fragments have."""

READERS = 32
"""Sidecars that are read at a time."""

BLOCK = 1 << 22


class IncompleteError(SD2ClipError):
    """A folder does not have all captions of its plan, or a file of it is damaged."""


@dataclass(frozen=True)
class WrittenFile:
    """A file of a fragment."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Sidecar:
    """What became of a fragment."""

    id: str
    captions: int
    distinct: int
    truncated: int
    """Captions of which more than 75 tokens were cut off."""
    longest: int
    """Tokens of the longest caption."""
    failed: int
    """Rows left out because img2dataset could not download their picture."""
    files: tuple[WrittenFile, ...]

    def to_json(self) -> bytes:
        """Serialize the sidecar."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Sidecar:
        """Read a serialized sidecar."""
        found = json.loads(data)
        files = tuple(WrittenFile(**one) for one in found.pop("files"))
        return cls(**found, files=files)


@dataclass
class Counts:
    """Sums over fragments."""

    captions: int = 0
    distinct: int = 0
    """Of each fragment: a caption of two fragments counts twice."""
    truncated: int = 0
    longest: int = 0
    failed: int = 0

    def add(self, sidecar: Sidecar) -> None:
        """Count one more fragment."""
        self.captions += sidecar.captions
        self.distinct += sidecar.distinct
        self.truncated += sidecar.truncated
        self.longest = max(self.longest, sidecar.longest)
        self.failed += sidecar.failed


def stem(name: str) -> str:
    """Return the name of a fragment's file without its ending."""
    return EMPTY_ID if name == EMPTY_ID else f"captions-{name}"


def write_sidecar(out: Folder, sidecar: Sidecar) -> None:
    """Say that a fragment is done."""
    out.write(f"{DONE}/{sidecar.id}.json", sidecar.to_json())


def is_done(out: Folder, name: str) -> bool:
    """Whether a fragment is done, asked of the store now."""
    return out.info(f"{DONE}/{name}.json") is not None


class Listing:
    """The files of an output folder at one moment."""

    def __init__(self, out: Folder) -> None:
        self._out = out
        self.files: dict[str, FileInfo] = {file.name: file for file in out.files()}
        self._data = {name.partition("/")[0].partition(".")[0] for name in self.files}

    def done(self, name: str, *, per_fragment: bool) -> bool:
        """Whether a fragment has its sidecar and, if it has a file of its own, that file too."""
        sidecar = f"{DONE}/{name}.json"
        if sidecar not in self.files:
            return False
        if not per_fragment or stem(name) in self._data:
            return True
        # All of its rows may have been left out.
        return not Sidecar.from_json(self._out.read(sidecar)).files


def read_sidecars(out: Folder, names: Iterable[str]) -> Iterator[Sidecar]:
    """Read the sidecars of fragments, in order."""

    def read(name: str) -> Sidecar:
        path = f"{DONE}/{name}.json"
        try:
            return Sidecar.from_json(out.read(path))
        except (ValueError, KeyError, TypeError) as error:
            raise IncompleteError(
                f"{out.path(path)} is damaged ({fault(error)}). Remove it and run sd2-clip encode "
                "again."
            ) from error

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, names)


@dataclass(frozen=True)
class Manifest:
    """A complete set of encoded captions."""

    settings: dict[str, Any]
    counts: Counts
    fragments: Sequence[tuple[str, int]]
    """Of each fragment with captions, in order: its file and how many it has."""
    empty: str
    """The file of the empty caption."""
    left_out: dict[str, int]

    def to_json(self) -> bytes:
        """Serialize the manifest: nothing in it differs from run to run."""
        head = {
            "settings": self.settings,
            "counts": asdict(self.counts),
            "left_out": self.left_out,
            "empty": self.empty,
            "version": __version__,
        }
        lines = [json.dumps(one) for one in self.fragments]
        text = json.dumps(head, indent=1)[:-2] + ',\n "fragments": [\n' + ",\n".join(lines)
        return f"{text}\n]}}\n".encode()


def write_manifest(
    out: Folder, settings: dict[str, Any], left_out: dict[str, int], sidecars: Sequence[Sidecar]
) -> Manifest:
    """Write the manifest of *sidecars*: that of the empty caption, and all fragments in order."""
    counts = Counts()
    for sidecar in sidecars[1:]:
        counts.add(sidecar)
    fragments = [(one.files[0].name, one.captions) for one in sidecars[1:] if one.files]
    manifest = Manifest(settings, counts, fragments, sidecars[0].files[0].name, left_out)
    data = manifest.to_json()
    try:
        unchanged = out.read(MANIFEST) == data
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        out.write(MANIFEST, data)
    return manifest


def read_manifest(out: Folder) -> Manifest:
    """Read the manifest of a complete set. Raises ``IncompleteError`` if there is none."""
    try:
        found = json.loads(out.read(MANIFEST))
        settings = found["settings"]
        settings["file_format"]  # of another program's manifest there is none
        return Manifest(
            settings=settings,
            counts=Counts(**found["counts"]),
            fragments=[(name, count) for name, count in found["fragments"]],
            empty=found["empty"],
            left_out=found["left_out"],
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise IncompleteError(
            f"{out.url} contains no complete set of encoded captions ({fault(error)}). Run "
            f"sd2-clip encode CAPTIONS {out.url} again with the same options; it does what is "
            "missing."
        ) from error


def damaged_files(out: Folder, sidecars: Iterable[Sidecar]) -> Iterator[tuple[Sidecar, str]]:
    """Read all files again; yield each fragment with a file that is not what was written."""
    for sidecar in sidecars:
        for file in sidecar.files:
            problem = _problem(out, file)
            if problem is not None:
                yield sidecar, f"{file.name} {problem}"


def _problem(out: Folder, file: WrittenFile) -> str | None:
    sha, size = hashlib.sha256(), 0
    try:
        with out.open(file.name) as stream:
            while block := stream.read(BLOCK):
                sha.update(block)
                size += len(block)
    except FileNotFoundError:
        return "is missing"
    if size != file.size:
        return f"has {size:,} bytes instead of {file.size:,}"
    return None if sha.hexdigest() == file.sha256 else "has other bytes than were written"


def forget(out: Folder, sidecar: Sidecar) -> None:
    """Remove a sidecar, so that its fragment is encoded again."""
    out.remove(f"{DONE}/{sidecar.id}.json")


def stale_files(listing: Listing, sidecars: Sequence[Sidecar]) -> list[str]:
    """Return the files of fragments that are no longer in the plan, their sidecars included."""
    wanted = {file.name for sidecar in sidecars for file in sidecar.files}
    wanted |= {f"{DONE}/{sidecar.id}.json" for sidecar in sidecars}
    return sorted(name for name in listing.files if name not in wanted and OUTPUT.fullmatch(name))
