"""The embeddings that ``sd2-clip encode`` wrote, for a trainer."""

from __future__ import annotations

import json
from collections import OrderedDict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sd2.errors import UnreadableFileError
from .manifest import IncompleteError, complete_set
from .shards import read_shard

if TYPE_CHECKING:
    import torch


OPEN_SHARDS = 64


class EncodedCaptions:
    """A map-style data set over a folder of encoded captions.

    ``dataset[i]`` is a dict: ``key``, ``caption``, ``token_count``, ``truncated``, ``token_ids``
    (77,), ``caption_latents`` (77, W) and, if they were asked for, ``caption_pooled`` (W,).
    ``dataset.empty`` is the same of the empty caption. A row's numbers are read when it is asked
    for. Only the index, about 150 bytes a caption, is in memory.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        """Raises ``IncompleteError`` unless all captions are there."""
        self.folder = Path(folder)
        index, self._shards = complete_set(self.folder)
        self._lines = index.splitlines()
        self._open: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()
        """Shards that were used lately, mapped; each is an open file."""

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> dict[str, Any]:
        entry = json.loads(self._lines[number])
        shard, row = entry.pop("shard"), entry.pop("row")
        return {**entry, **self._row(shard, row)}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}  # a worker maps for itself

    @property
    def keys(self) -> list[str]:
        """The captions' keys, in order."""
        return [json.loads(line)["key"] for line in self._lines]

    @property
    def empty(self) -> dict[str, Any]:
        """The empty caption's embedding, for captions that are dropped in training."""
        return {"key": "", "caption": "", "token_count": 0, "truncated": False, **self._row(0, 0)}

    def _row(self, shard: int, row: int) -> dict[str, torch.Tensor]:
        try:
            tensors = self._open.get(shard) or read_shard(self._shards[shard])
        except UnreadableFileError as error:
            raise IncompleteError(
                f"{error} Run sd2-clip encode again; it makes this shard anew."
            ) from error
        self._open[shard] = tensors
        self._open.move_to_end(shard)
        while len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        # Copies, which the trainer may change.
        return {name: tensor[row].clone() for name, tensor in tensors.items()}
