"""A data set's embeddings on disk: written shard by shard, taken up again where they were left.

    OUT/manifest.json                       the settings, the counts and the names of the shards
    OUT/index-<digest>.jsonl                of each caption: key, caption, shard, row, token_count,
                                            truncated
    OUT/captions-<digest>.safetensors       caption_latents (N, 77, W), token_ids (N, 77), and
                                            caption_pooled (N, W) if asked for

A caption that comes again (the same tokens after cutting) is encoded and stored once. The first
row of all is the empty caption's, for trainers that drop captions. A shard is named for the
settings and the tokens in it, and none is ever changed: until the manifest of a new set is whole,
that of the one before stands, and any number of processes can each do their part. Rows that any
shard in the folder has are copied, not encoded.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..sd2.errors import OptionError, SD2ClipError
from ..sd2.files.atomic_write import check_writable, replacing, write_safetensors
from ..sd2.files.checkpoint import open_checkpoint
from ..sd2.tokens.chunks import MAX_TEXT_TOKENS, pad_chunk
from .captions import Caption
from .encoder import CaptionEncoder
from .manifest import begin, check_out, is_complete, write_manifest

FORMAT = "sd2_clip.captions/1"
RECORD_KEY = "sd2_clip"
"""In a shard's metadata: the settings that it was made with."""

READ_AHEAD = 1024
"""Captions that are tokenized at a time."""

BATCH = 32
"""Captions that are encoded at a time: they keep a GPU busy, and memory stays bounded."""


@dataclass(frozen=True)
class Part:
    """This process's share of the shards: every *of*-th one, from the *number*-th on."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise OptionError(
                f"There is no part {self.number}/{self.of}: of {max(self.of, 1)}, parts are 1 to "
                f"{max(self.of, 1)}."
            )

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
    """Shards of other captions, which were encoded here before."""


def encode_captions(
    captions: Iterable[Caption],
    out: Path,
    encoder: CaptionEncoder,
    *,
    shard_size: int = 256,
    part: Part = Part(),
    progress: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Encode *captions* into *out*, or do what is left of it.

    Raises ``OutFolderError`` if *out* holds other things, or was begun with other settings.
    """
    if shard_size < 1:
        raise OptionError(f"A shard holds one caption or more, not {shard_size}.")
    settings = {"format": FORMAT, **encoder.settings()}
    check_out(out, settings)
    check_writable(out)
    summary = Summary()
    sha = hashlib.sha256()
    unnamed = out / f".index-{secrets.token_hex(4)}"  # its name is that of what will be in it
    with (
        replacing(unnamed) as partial,
        partial.open("wb") as index,
        _Shards(out, encoder, settings, shard_size, part, summary, progress) as shards,
    ):
        shards.place([])  # the empty caption
        for some in _batches(captions):
            all_ids = encoder.tokenize([caption.text for caption in some])
            for caption, ids in zip(some, all_ids, strict=True):
                shard, row = shards.place(ids)
                entry = {
                    "key": caption.key,
                    "caption": caption.text,
                    "shard": shard,
                    "row": row,
                    "token_count": len(ids),
                    "truncated": len(ids) > MAX_TEXT_TOKENS,
                }
                line = f"{json.dumps(entry)}\n".encode()
                index.write(line)
                sha.update(line)
                summary.captions += 1
                summary.truncated += len(ids) > MAX_TEXT_TOKENS
                summary.longest = max(summary.longest, len(ids))
            progress(summary)
        shards.finish()
    name = f"index-{sha.hexdigest()[:16]}.jsonl"
    os.replace(unnamed, out / name)
    there = {path.name for path in out.glob("captions-*.safetensors")}
    summary.missing = len(set(shards.names) - there)
    summary.left_over = len(there - set(shards.names))
    check_out(out, settings)  # another process may have begun with others meanwhile
    if not summary.missing or not is_complete(out):
        counts = {field: count for field, count in asdict(summary).items() if field != "encoded"}
        about = {"counts": counts, "empty_caption": {"shard": 0, "row": 0}, "index": name}
        write_manifest(out, settings, **about, shards=shards.names)
        for old in out.glob("index-*.jsonl"):
            if old.name != name and not summary.missing:
                old.unlink(missing_ok=True)
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
        size: int,
        part: Part,
        summary: Summary,
        progress: Callable[[Summary], None],
    ) -> None:
        self.names: list[str] = []
        """Of all shards so far, in order."""
        self._out = out
        self._encoder = encoder
        self._settings = settings
        self._salt = json.dumps(settings, sort_keys=True).encode()
        self._size = size
        self._part = part
        self._summary = summary
        self._progress = progress
        self._places: dict[bytes, int] = {}
        """A caption's digest to its number: about 150 bytes of memory each, however long it is."""
        self._waiting: list[Sequence[int]] = []
        self._known: dict[bytes, tuple[Path, int]] | None = None
        self._writer = ThreadPoolExecutor(1, "sd2_clip writer")
        self._written: Future[None] | None = None

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.shutdown()

    def place(self, ids: Sequence[int]) -> tuple[int, int]:
        """Shard and row of a caption, by its tokens."""
        tokens = pad_chunk(ids)
        number = self._places.setdefault(_digest(tokens), len(self._places))
        if number == self._summary.distinct:
            self._summary.distinct += 1
            self._waiting.append(tokens)
            if len(self._waiting) == self._size:
                self._flush()
        return divmod(number, self._size)

    def finish(self) -> None:
        """Encode what is left, and wait until all is written."""
        if self._waiting:
            self._flush()
        self._wait()

    def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        number = len(self.names)
        digest = hashlib.sha256(b"".join([self._salt, *map(_digest, rows)])).hexdigest()
        path = self._out / f"captions-{digest[:16]}.safetensors"
        self.names.append(path.name)
        self._summary.shards += 1
        if not self._part.has(number) or _is_whole(path):
            return
        if self._known is None:
            begin(self._out, self._settings)
            self._known = _rows_in(self._out, self._settings)
        tensors = self._tensors(rows, self._known)
        self._wait()
        metadata = {"format": "pt", RECORD_KEY: json.dumps(self._settings)}
        self._written = self._writer.submit(write_safetensors, path, tensors, metadata)

    def _tensors(
        self, rows: Sequence[Sequence[int]], known: dict[bytes, tuple[Path, int]]
    ) -> dict[str, torch.Tensor]:
        """A shard's tensors: rows that are known are copied, the others encoded."""
        digests = [_digest(tokens) for tokens in rows]
        new = [i for i, digest in enumerate(digests) if digest not in known]
        made: dict[int, dict[str, torch.Tensor]] = {}
        for start in range(0, len(new), BATCH):
            some = new[start : start + BATCH]
            encoded = self._encoder.encode_chunks([rows[i] for i in some])
            for place, i in enumerate(some):
                made[i] = {name: tensor[place] for name, tensor in encoded.items()}
            self._summary.encoded += len(some)
            self._progress(self._summary)
        copied: dict[Path, list[tuple[int, int]]] = {}
        for i, digest in enumerate(digests):
            if i not in made:
                path, row = known[digest]
                copied.setdefault(path, []).append((i, row))
        for path, places in copied.items():  # one by one: what is mapped is an open file
            shard = read_shard(path)
            for i, row in places:
                made[i] = {name: tensor[row].clone() for name, tensor in shard.items()}
        names = ["caption_latents", *(["caption_pooled"] if self._encoder.pooled else [])]
        tensors = {name: torch.stack([made[i][name] for i in range(len(rows))]) for name in names}
        return {**tensors, "token_ids": torch.tensor(rows, dtype=torch.int32)}

    def _wait(self) -> None:
        if self._written is not None:
            self._written.result()


def read_shard(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a shard, mapped. Raises ``UnreadableFileError`` for a damaged one."""
    checkpoint = open_checkpoint(path)
    return checkpoint.read(list(checkpoint.tensors))


def _digest(tokens: Sequence[int]) -> bytes:
    return hashlib.sha256(array("i", tokens).tobytes()).digest()[:16]


def _is_whole(path: Path) -> bool:
    """Whether a shard is there and can be read; one that cannot is written again."""
    if not path.exists():
        return False
    try:
        return "caption_latents" in open_checkpoint(path).tensors
    except SD2ClipError:
        return False


def _rows_in(out: Path, settings: dict[str, Any]) -> dict[bytes, tuple[Path, int]]:
    """Of each row in the folder's shards: its digest, and where it is."""
    known: dict[bytes, tuple[Path, int]] = {}
    for path in sorted(out.glob("captions-*.safetensors")):
        try:
            checkpoint = open_checkpoint(path)
            if json.loads(checkpoint.metadata.get(RECORD_KEY, "null")) != settings:
                continue
            rows = checkpoint.read(["token_ids"])["token_ids"].tolist()
        except (SD2ClipError, ValueError, KeyError):
            continue
        known.update({_digest(tokens): (path, row) for row, tokens in enumerate(rows)})
    return known


def _batches(captions: Iterable[Caption]) -> Iterator[list[Caption]]:
    iterator = iter(captions)
    while some := list(islice(iterator, READ_AHEAD)):
        yield some
