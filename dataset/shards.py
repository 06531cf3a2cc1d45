"""A data set's embeddings on disk: written shard by shard, taken up again where they were left.

    OUT/manifest.json               the settings, and the counts once all is done
    OUT/captions-00000.safetensors  caption_latents (N, 77, W); caption_pooled (N, W) if asked for
    OUT/index.jsonl                 of each caption: key, caption, shard, row, tokens, truncated

A caption that comes again (the same tokens after cutting) is encoded and stored once. The first
row of all is the empty caption's, for trainers that drop captions. Which caption lies where follows
from the source alone, so that any number of processes can each do their part of the shards, and one
that begins again skips what is there. A shard says what it was made from; where that has changed,
it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..sd2.errors import OptionError, SD2ClipError
from ..sd2.safetensors_header import read_safetensors_header
from ..sd2.writing import check_writable, replacing, write_safetensors
from ..version import __version__
from .captions import Caption
from .encoder import ROOM, CaptionEncoder

if TYPE_CHECKING:
    import torch

FORMAT = "sd2_clip.captions/1"
MANIFEST, INDEX = "manifest.json", "index.jsonl"
RECORD_KEY = "sd2_clip"
"""In a shard's metadata: what it was made from."""

READ_AHEAD = 1024
"""Captions that are tokenized at a time."""

BATCH = 32
"""Captions that are encoded at a time; a GPU is busy with as many, and memory stays bounded."""

Ids = tuple[int, ...]

_SHARD = re.compile(r"captions-(\d+)\.safetensors")


class OtherSettingsError(SD2ClipError):
    """A folder that holds embeddings made with other settings."""


@dataclass(frozen=True)
class Part:
    """This process's share of the shards: every *of*-th one, from the *number*-th on."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise OptionError(f"part {self.number}/{self.of} does not exist: 1/{self.of} is first.")

    def has(self, shard: int) -> bool:
        return shard % self.of == self.number - 1


@dataclass
class Summary:
    """What became of a data set."""

    captions: int = 0
    distinct: int = 0
    """Rows in all shards, the empty caption's among them."""
    truncated: int = 0
    longest: int = 0
    """Tokens of the longest caption."""
    shards: int = 0
    encoded: int = 0
    """Rows that this process computed; the others were there, or are another part's."""
    missing: int = 0
    """Shards that are not there yet: other parts'."""
    left_over: int = 0
    """Shards behind the last one, of a longer data set that was encoded here before."""


def shard_path(out: Path, number: int) -> Path:
    return out / f"captions-{number:05}.safetensors"


def encode_captions(
    captions: Iterable[Caption],
    out: Path,
    encoder: CaptionEncoder,
    *,
    shard_size: int = 1024,
    part: Part = Part(),
    progress: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Encode *captions* into *out*, or do what is left of it.

    Raises ``OtherSettingsError`` if *out* was begun with other settings; whatever happens, complete
    shards stay.
    """
    if shard_size < 1:
        raise OptionError(f"A shard holds one caption or more, not {shard_size}.")
    check_writable(out)
    settings = {"format": FORMAT, **encoder.settings(), "room": ROOM, "shard_size": shard_size}
    _check_manifest(out, settings)
    summary = Summary()
    with ExitStack() as stack:
        index = stack.enter_context(replacing(out / INDEX)).open("w", encoding="utf-8")
        stack.callback(index.close)
        shards = stack.enter_context(_Shards(out, encoder, settings, part, summary, progress))
        shards.place(())  # the empty caption
        for some in _batches(captions):
            for caption, ids in zip(
                some, encoder.tokenize([caption.text for caption in some]), strict=True
            ):
                shard, row = shards.place(tuple(ids[:ROOM]))
                _write_line(index, caption, shard, row, len(ids))
                summary.captions += 1
                summary.truncated += len(ids) > ROOM
                summary.longest = max(summary.longest, len(ids))
            progress(summary)
        shards.finish()
        index.close()
    there = {int(match[1]) for match in map(_SHARD.fullmatch, _names(out)) if match}
    summary.missing = len(set(range(summary.shards)) - there)
    summary.left_over = sum(number >= summary.shards for number in there)
    _write_manifest(out, settings, summary)
    return summary


class _Shards:
    """Hands out places in shards, and encodes and writes each shard that is full.

    Writing goes on beside the encoding of the next shard; no more than one is waiting.
    """

    def __init__(
        self,
        out: Path,
        encoder: CaptionEncoder,
        settings: dict[str, Any],
        part: Part,
        summary: Summary,
        progress: Callable[[Summary], None],
    ) -> None:
        self._out = out
        self._encoder = encoder
        self._settings = settings
        self._part = part
        self._summary = summary
        self._progress = progress
        self._places: dict[bytes, int] = {}
        """A caption's digest to its number: about 150 bytes of memory each, however long it is."""
        self._waiting: list[Ids] = []
        self._writer = ThreadPoolExecutor(1, "sd2_clip writer")
        self._written: Future[None] | None = None

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.shutdown()

    def place(self, ids: Ids) -> tuple[int, int]:
        """Shard and row of a caption, by its tokens."""
        size: int = self._settings["shard_size"]
        digest = _digest([ids])[:16]
        number = self._places.setdefault(digest, len(self._places))
        if number == self._summary.distinct:
            self._summary.distinct += 1
            self._waiting.append(ids)
            if len(self._waiting) == size:
                self._flush()
        return divmod(number, size)

    def finish(self) -> None:
        """Encode what is left, and wait until all is written."""
        if self._waiting:
            self._flush()
        self._wait()

    def _flush(self) -> None:
        captions, self._waiting = self._waiting, []
        number = self._summary.shards
        self._summary.shards += 1
        if not self._part.has(number):
            return
        path = shard_path(self._out, number)
        made_from = {**self._settings, "tokens_sha256": _digest(captions).hex()}
        if _made_from(path) == made_from:
            return
        parts: list[dict[str, torch.Tensor]] = []
        for start in range(0, len(captions), BATCH):
            parts.append(self._encoder.encode(captions[start : start + BATCH]))
            self._summary.encoded += len(captions[start : start + BATCH])
            self._progress(self._summary)
        self._wait()
        self._written = self._writer.submit(_write, path, parts, made_from)

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()


def _write(path: Path, parts: list[dict[str, torch.Tensor]], made_from: dict[str, Any]) -> None:
    import torch

    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    write_safetensors(path, tensors, {"format": "pt", RECORD_KEY: json.dumps(made_from)})


def _made_from(path: Path) -> Any:
    """What a shard says it was made from; None if there is none that could be used."""
    if not path.exists():
        return None
    try:
        return json.loads(read_safetensors_header(path)[1].get(RECORD_KEY, "null"))
    except (SD2ClipError, ValueError):
        return None  # damaged: it is made anew


def _digest(captions: Iterable[Ids]) -> bytes:
    sha = hashlib.sha256()
    for ids in captions:
        sha.update(array("I", (len(ids), *ids)).tobytes())
    return sha.digest()


def _batches(captions: Iterable[Caption]) -> Iterator[list[Caption]]:
    iterator = iter(captions)
    while some := list(islice(iterator, READ_AHEAD)):
        yield some


def _write_line(index: IO[str], caption: Caption, shard: int, row: int, tokens: int) -> None:
    line = {
        "key": caption.key,
        "caption": caption.text,
        "shard": shard,
        "row": row,
        "tokens": tokens,
        "truncated": tokens > ROOM,
    }
    index.write(f"{json.dumps(line)}\n")


def _names(out: Path) -> list[str]:
    return [path.name for path in out.iterdir()]


def _check_manifest(out: Path, settings: dict[str, Any]) -> None:
    """That *out* was begun with these settings; begins it, if nobody did."""
    path = out / MANIFEST
    if not path.exists():
        _write_manifest(out, settings, None)
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))["settings"]
        names = [name for name in {**begun, **settings} if begun.get(name) != settings.get(name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OtherSettingsError(
            f"{path} is no manifest of encoded captions: {error!r}. Choose another folder."
        ) from error
    if names:
        changes = "; ".join(
            f"{name}: {begun.get(name)}, now {settings.get(name)}" for name in names
        )
        raise OtherSettingsError(
            f"{out} holds captions encoded with other settings ({changes}). Choose another folder, "
            "or use the same settings to go on."
        )


def _write_manifest(out: Path, settings: dict[str, Any], summary: Summary | None) -> None:
    manifest: dict[str, Any] = {"settings": settings, "version": __version__}
    if summary is not None:
        counts = {name: count for name, count in asdict(summary).items() if name != "encoded"}
        manifest["counts"] = counts
        manifest["empty_caption"] = {"shard": 0, "row": 0}
    with replacing(out / MANIFEST) as partial:
        partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
