"""What an encoder has computed lately, so that it computes nothing twice.

A prompt encoded again, the empty prompt that weights are measured from, and the beginning of a
prompt that was edited further on: attention is causal, so places before the edit keep their
states. Only for encoders on the CPU, where that is slow and comparing costs nothing.

Where something else has a hand in the computation (autocast, hooks, replaced methods), all is
computed and nothing remembered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .text_model import Past
from .weights_fingerprint import ModuleSnapshot, is_altered

RESULTS = 32
"""Chunks whose results are kept: 0.6 MB each at SD2's size."""

PASTS = 4
"""Chunks whose keys and values are kept too: 15 MB each at SD2's size."""

Key = tuple[Any, ...]
"""What a result is for (layer, projection), whether with a pooled row, and the input; see _key."""


class Encoder(Protocol):
    """What ``Recall`` computes with: an ``SDClipModel``."""

    @property
    def transformer(self) -> nn.Module:
        """All weights that ``compute`` uses."""

    def purpose(self) -> Key:
        """All options that results depend on."""

    def compute(self, x: Tensor, pooled_at: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """States of the places behind *past*, (B, T - past.length, W), and pooled rows."""


@dataclass(frozen=True)
class _Chunk:
    """One chunk's input and result."""

    x: Tensor
    """(T, W)"""
    states: Tensor
    """(T, W)"""
    pooled: Tensor
    """(1, W), or (0, W) if it was not wanted."""
    blocks: Sequence[tuple[Tensor, Tensor]] = ()
    """By block: keys and values, (1, T, W) each."""


class Recall:
    """Results of the last chunks, valid as long as the weights are what they were."""

    def __init__(self) -> None:
        self._results: OrderedDict[Key, _Chunk] = OrderedDict()
        self._pasts: OrderedDict[Key, _Chunk] = OrderedDict()
        """The last few of them, with their blocks."""
        self._snapshot: ModuleSnapshot | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> Any:
        return Recall, ()  # a copy of a model gets other weights

    def encode(self, model: Encoder, x: Tensor, pooled_at: Tensor) -> tuple[Tensor, Tensor]:
        """``model.compute`` on x (B, T, W), float32 on the CPU; pooled rows for the first P.

        One thread at a time: they would only share the processors.
        """
        with self._lock:
            return self._encode(model, x, pooled_at)

    def _encode(self, model: Encoder, x: Tensor, pooled_at: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled("cpu"):
            return model.compute(x, pooled_at, Past())
        if self._snapshot is None or not self._snapshot.holds(model.transformer):
            if is_altered(model.transformer):
                return model.compute(x, pooled_at, Past())
            self._results.clear()
            self._pasts.clear()
            self._snapshot = ModuleSnapshot(model.transformer)
        seen: dict[Key, Tensor] = {}
        rows: dict[Key, _Chunk] = {}
        fresh: dict[Key, int] = {}
        keys = [
            self._key((*model.purpose(), i < len(pooled_at)), one, seen) for i, one in enumerate(x)
        ]
        for i, key in enumerate(keys):
            if key in self._results:
                self._results.move_to_end(key)
                rows[key] = self._results[key]
            elif key not in fresh:
                continued = self._continue(model, key, x[i : i + 1], pooled_at[i : i + 1])
                if continued is None:
                    fresh[key] = i
                else:
                    rows[key] = continued
        if fresh:
            # Those with a pooled row stay first, as compute wants them.
            batch = x[list(fresh.values())]
            at = pooled_at[[i for i in fresh.values() if i < len(pooled_at)]]
            past = Past(keep=len(batch) <= PASTS)
            states, pooled = model.compute(batch, at, past)
            for row, key in enumerate(fresh):
                blocks = [(k[row : row + 1], v[row : row + 1]) for k, v in past.blocks]
                rows[key] = self._keep(key, batch[row], states[row], pooled[row : row + 1], blocks)
        found = [rows[key] for key in keys]
        return torch.stack([row.states for row in found]), torch.cat([row.pooled for row in found])

    def _key(self, purpose: Key, x: Tensor, seen: dict[Key, Tensor]) -> Key:
        """The key of one chunk, (T, W), and of no other; *seen* are those of the same call.

        One number a place finds chunks; then all are compared, which is quicker than hashing them.
        """
        numbers = x[:, 0].numpy().tobytes()
        twin = 0
        while True:
            key = (purpose, numbers, twin)
            known = self._results[key].x if key in self._results else seen.get(key)
            if known is None or torch.equal(known, x):
                seen[key] = x
                return key
            twin += 1

    def _continue(self, model: Encoder, key: Key, x: Tensor, pooled_at: Tensor) -> _Chunk | None:
        """The result of one chunk, (1, T, W), that begins as a kept one does; None: none does."""
        near: _Chunk | None = None
        length = x.shape[1] // 4  # less than that is not worth leaving the batch
        limit = int(pooled_at[0]) if len(pooled_at) else x.shape[1] - 1
        for (purpose, *_), chunk in self._pasts.items():
            if purpose == key[0] and chunk.x.shape == x.shape[1:]:
                same = int((chunk.x == x[0]).all(-1).long().cumprod(0).sum())
                if min(same, limit) > length:
                    near, length = chunk, min(same, limit)
        if near is None:
            return None
        past = Past(length, near.blocks, keep=True)
        states, pooled_row = model.compute(x[:, length:], pooled_at, past)
        whole = torch.cat([near.states[:length], states[0]])
        return self._keep(key, x[0], whole, pooled_row, past.blocks)

    def _keep(
        self,
        key: Key,
        x: Tensor,
        states: Tensor,
        pooled: Tensor,
        blocks: Sequence[tuple[Tensor, Tensor]],
    ) -> _Chunk:
        """Remember a result, forgetting the oldest; copies, since *x* may be part of a batch."""
        result = self._results[key] = _Chunk(x.clone(), states.clone(), pooled.clone())
        if blocks:
            copies = [(keys.clone(), values.clone()) for keys, values in blocks]
            self._pasts[key] = replace(result, blocks=copies)
        for memory, most in ((self._results, RESULTS), (self._pasts, PASTS)):
            while len(memory) > most:
                memory.popitem(last=False)
        return result
