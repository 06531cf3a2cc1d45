"""MDS, the format of Mosaic's streaming data sets, as Mosaic's diffusion trainer reads it.

A shard is the number of samples (uint32), where each starts and the last ends (uint32), a JSON text
that describes the shard, and the samples. A sample is the size of each column (uint32), and then
the columns in order of their names. ``index.json`` lists the shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from ...sd2.config import CONTEXT_LENGTH
from ...sd2.errors import OptionError
from ...sd2.tokens.chunks import MAX_TEXT_TOKENS
from ..encoded_rows import LATENTS, POOLED, EncodedRows, OutputFile, valid_text
from ..manifest import EMPTY_ID
from .base import Format

if TYPE_CHECKING:
    from ..manifest import Sidecar
    from ..storage import Folder

SIZE_LIMIT = 1 << 28
"""Of a shard, in bytes: 256 MiB, as in Mosaic's scripts."""

KEYS = ("latents", "new")

SHARD = "shard.00000.mds"


class MDS(Format):
    """Shards for Mosaic's StreamingDataset; ``index.json`` is written when all are done."""

    name = "mds"
    options = ("mds_keys",)
    rows = 800
    """A shard of these stays below the size limit, in fp32 too."""

    def check(self, settings: Mapping[str, Any]) -> None:
        if self.chosen.mds_keys not in KEYS:
            raise OptionError(
                f"mds_keys {self.chosen.mds_keys!r} is unknown. Choose one of {', '.join(KEYS)}."
            )
        stored, pooled = settings["stored_in"], settings["pooled"]
        if self.chosen.mds_keys == "latents" and stored != "float16":
            raise OptionError("--format mds stores fp16. Choose --store fp16, or --mds-keys new.")
        if self.chosen.mds_keys == "new" and not (stored == "float32" and pooled):
            raise OptionError(
                "--mds-keys new stores embeddings and pooled vectors in fp32: add --store fp32 "
                "--pooled."
            )

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        def write(file: BinaryIO) -> None:
            _write_shard(file, self._columns(), self._samples(rows))

        if stem != EMPTY_ID:
            yield OutputFile(f"{stem}.mds", write)
            return
        # No sample of the data set: a data set of its own.
        yield OutputFile(f"{stem}/{SHARD}", write)
        size = sum(map(len, _shard_parts(self._columns(), self._samples(rows))))
        info = _shard_info(self._columns(), SHARD, size, 1)
        yield OutputFile(f"{stem}/index.json", lambda file: _write_index(file, [info]))

    def finish(self, out: Folder, sidecars: Sequence[Sidecar], settings: Mapping[str, Any]) -> None:
        shards = [
            _shard_info(self._columns(), one.files[0].name, one.files[0].size, one.captions)
            for one in sidecars
            if one.id != EMPTY_ID and one.files
        ]
        out.create("index.json", lambda file: _write_index(file, shards))

    def _columns(self) -> list[str]:
        """Return the names of the columns, in order."""
        names = [LATENTS]
        if self.chosen.mds_keys == "new":
            parts = ("LATENTS", "ATTENTION_MASK", "POOLED_TEXT")
            names = [f"caption_CLIP_{part}" for part in parts]
        return sorted(["key", "caption", *names])

    def _samples(self, rows: EncodedRows) -> Iterator[dict[str, bytes]]:
        import numpy as np

        latents = rows.array(LATENTS)
        for caption, count, row in zip(rows.captions, rows.token_counts, rows.row_of, strict=True):
            sample = {
                "key": valid_text(caption.key).encode(),
                "caption": valid_text(caption.text).encode(),
            }
            if self.chosen.mds_keys == "latents":
                yield {**sample, LATENTS: latents[row].tobytes()}
                continue
            used = min(count, MAX_TEXT_TOKENS) + 2  # with start and end
            yield {
                **sample,
                "caption_CLIP_LATENTS": latents[row].tobytes(),
                "caption_CLIP_ATTENTION_MASK": (np.arange(CONTEXT_LENGTH) < used).tobytes(),
                "caption_CLIP_POOLED_TEXT": rows.array(POOLED)[row].tobytes(),
            }


def _config(columns: Sequence[str]) -> dict[str, Any]:
    """Describe a shard as its own text and ``index.json`` do."""
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [],
        "size_limit": SIZE_LIMIT,
        "column_names": list(columns),
        "column_encodings": ["str" if name in ("key", "caption") else "bytes" for name in columns],
        "column_sizes": [None] * len(columns),
    }


def _shard_parts(columns: Sequence[str], samples: Iterator[dict[str, bytes]]) -> list[bytes]:
    import numpy as np

    data = []
    for sample in samples:
        sizes = np.array([len(sample[name]) for name in columns], np.uint32)
        data.append(b"".join([sizes.tobytes(), *(sample[name] for name in columns)]))
    config = json.dumps(_config(columns), sort_keys=True).encode()
    head = 4 + 4 * (len(data) + 1) + len(config)
    ends = np.cumsum([head, *map(len, data)], dtype=np.int64)
    if ends[-1] >= 1 << 32:
        raise OptionError(
            "A shard of MDS must be smaller than 4 GiB. Choose a smaller --shard-size."
        )
    return [np.uint32(len(data)).tobytes(), ends.astype(np.uint32).tobytes(), config, *data]


def _write_shard(
    file: BinaryIO, columns: Sequence[str], samples: Iterator[dict[str, bytes]]
) -> None:
    for part in _shard_parts(columns, samples):
        file.write(part)


def _shard_info(columns: Sequence[str], name: str, size: int, samples: int) -> dict[str, Any]:
    raw = {"basename": name, "bytes": size, "hashes": {}}
    return {**_config(columns), "raw_data": raw, "samples": samples, "zip_data": None}


def _write_index(file: BinaryIO, shards: Sequence[dict[str, Any]]) -> None:
    file.write(json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode())
