"""The embeddings that ``sd2-clip encode`` wrote, for a trainer."""

from __future__ import annotations

import json
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sd2.errors import SD2ClipError
from .shards import INDEX, shard_path

if TYPE_CHECKING:
    import torch


class IncompleteError(SD2ClipError):
    """A folder in which not all captions have been encoded."""


class EncodedCaptions:
    """A map-style data set over a folder of encoded captions.

    ``dataset[i]`` is a dict: ``key``, ``caption``, ``tokens``, ``truncated``, ``caption_latents``
    (77, W) and, if they were asked for, ``caption_pooled`` (W,). ``dataset.empty`` is the same of
    the empty caption. The numbers are mapped: nothing is read until it is touched, and any number
    of loading processes share them. Only the index, about 150 bytes a caption, is in memory.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX
        try:
            self._lines = index.read_bytes().splitlines()
        except OSError as error:
            raise IncompleteError(
                f"{index} cannot be read ({error.strerror}): captions are encoded there by "
                f"sd2-clip encode CAPTIONS {self.folder}, which also goes on where it stopped."
            ) from error

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> dict[str, Any]:
        entry = json.loads(self._lines[number])
        shard, row = entry.pop("shard"), entry.pop("row")
        return {**entry, **self._row(shard, row)}

    @property
    def keys(self) -> list[str]:
        """The captions' keys, in order."""
        return [json.loads(line)["key"] for line in self._lines]

    @property
    def empty(self) -> dict[str, Any]:
        """The empty caption's embedding, for captions that are dropped in training."""
        return {"key": "", "caption": "", "tokens": 0, "truncated": False, **self._row(0, 0)}

    def _row(self, shard: int, row: int) -> dict[str, torch.Tensor]:
        return {name: tensor[row] for name, tensor in _open(shard_path(self.folder, shard)).items()}


@lru_cache(maxsize=128)  # each keeps its file open
def _open(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a shard, mapped."""
    from ..sd2.checkpoint import open_checkpoint

    if not path.exists():
        raise IncompleteError(
            f"{path} is not there: some part of the captions has not been encoded yet. Run the "
            "same sd2-clip encode again; it does what is missing."
        )
    checkpoint = open_checkpoint(path)
    return checkpoint.read(list(checkpoint.tensors))
