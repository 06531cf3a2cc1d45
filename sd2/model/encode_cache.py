"""Caches recent encoder outputs, and key/value prefixes for edited prompts.

Three prompts are not computed in full: one that was encoded before, the empty prompt that weights
are measured from, and one that begins as a recent one does. Attention is causal, so the states
before an edit stay the same. Only for encoders on the CPU, where computing is slow and comparing
inputs is cheap. While something else takes part in the computation (autocast, hooks, patches),
everything is computed and nothing is cached.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .text_model import KVCache
from .weights_fingerprint import WeightsFingerprint, is_altered

MAX_RESULTS = 32
"""Chunks whose results are kept: 0.6 MB each at SD2's size."""

MAX_PREFIXES = 4
"""Chunks whose keys and values are kept too: 15 MB each at SD2's size."""

Key = tuple[Any, ...]
"""Identifies a result: the options, whether it has a pooled vector, and the input; see _key."""


class CacheableEncoder(Protocol):
    """What ``EncodeCache`` computes with: an ``SDClipModel``."""

    @property
    def transformer(self) -> nn.Module:
        """Holds all weights that ``compute`` uses."""

    def cache_key(self) -> Key:
        """Return all options that results depend on."""

    def compute(self, x: Tensor, pooled_at: Tensor, kv_cache: KVCache) -> tuple[Tensor, Tensor]:
        """Return the states after the cached positions, (B, T, W), and pooled vectors, (P, W)."""


@dataclass(frozen=True)
class _Chunk:
    """One chunk's input and result."""

    x: Tensor
    """(T, W)"""
    states: Tensor
    """(T, W)"""
    pooled: Tensor
    """(1, W), or (0, W) if it was not requested."""
    blocks: Sequence[tuple[Tensor, Tensor]] = ()
    """Keys and values of each block, (1, T, W) each."""


class EncodeCache:
    """Results of the last chunks, valid while the weights are unchanged."""

    def __init__(self) -> None:
        self._results: OrderedDict[Key, _Chunk] = OrderedDict()
        self._prefixes: OrderedDict[Key, _Chunk] = OrderedDict()
        """The most recent results, with their keys and values."""
        self._fingerprint: WeightsFingerprint | None = None
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Free all results."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._results.clear()
        self._prefixes.clear()
        self._fingerprint = None

    def __reduce__(self) -> Any:
        return EncodeCache, ()  # the copy of a model may get other weights

    def encode(
        self, model: CacheableEncoder, x: Tensor, pooled_at: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ``model.compute`` of x, (B, T, W), float32 on the CPU, from the cache if possible.

        One thread at a time: two would only compete for the cores.
        """
        with self._lock:
            return self._encode(model, x, pooled_at)

    def _encode(
        self, model: CacheableEncoder, x: Tensor, pooled_at: Tensor
    ) -> tuple[Tensor, Tensor]:
        if torch.is_autocast_enabled("cpu"):
            return model.compute(x, pooled_at, KVCache())
        if self._fingerprint is None or not self._fingerprint.matches(model.transformer):
            self._clear()
            if is_altered(model.transformer):
                return model.compute(x, pooled_at, KVCache())
            self._fingerprint = WeightsFingerprint(model.transformer)
        inputs: dict[Key, Tensor] = {}
        results: dict[Key, _Chunk] = {}
        missing: dict[Key, int] = {}
        keys = [
            self._key((*model.cache_key(), i < len(pooled_at)), one, inputs)
            for i, one in enumerate(x)
        ]
        for i, key in enumerate(keys):
            if key in self._results:
                self._results.move_to_end(key)
                results[key] = self._results[key]
            elif key not in missing:
                extended = self._extend_prefix(model, key, x[i : i + 1], pooled_at[i : i + 1])
                if extended is None:
                    missing[key] = i
                else:
                    results[key] = extended
        if missing:
            # Chunks with a pooled vector stay first, as compute expects them.
            batch = x[list(missing.values())]
            at = pooled_at[[i for i in missing.values() if i < len(pooled_at)]]
            kv_cache = KVCache(keep=len(batch) <= MAX_PREFIXES)
            states, pooled = model.compute(batch, at, kv_cache)
            for row, key in enumerate(missing):
                blocks = [(k[row : row + 1], v[row : row + 1]) for k, v in kv_cache.blocks]
                results[key] = self._store(
                    key, batch[row], states[row], pooled[row : row + 1], blocks
                )
        found = [results[key] for key in keys]
        return torch.stack([one.states for one in found]), torch.cat([one.pooled for one in found])

    def _key(self, options: Key, x: Tensor, inputs: dict[Key, Tensor]) -> Key:
        """Return the key that belongs to this chunk, (T, W), alone; *inputs* are the call's own.

        Chunks are found by one value per position, then compared in full: faster than hashing all.
        """
        values = x[:, 0].numpy().tobytes()
        collisions = 0
        while True:
            key = (options, values, collisions)
            known = self._results[key].x if key in self._results else inputs.get(key)
            if known is None or torch.equal(known, x):
                inputs[key] = x
                return key
            collisions += 1

    def _extend_prefix(
        self, model: CacheableEncoder, key: Key, x: Tensor, pooled_at: Tensor
    ) -> _Chunk | None:
        """Compute a chunk, (1, T, W), from the longest cached prefix; None if there is none."""
        nearest: _Chunk | None = None
        length = x.shape[1] // 4  # a shorter prefix saves less than batching does
        limit = int(pooled_at[0]) if len(pooled_at) else x.shape[1] - 1
        for (options, *_), chunk in self._prefixes.items():
            if options == key[0] and chunk.x.shape == x.shape[1:]:
                same = int((chunk.x == x[0]).all(-1).long().cumprod(0).sum())
                if min(same, limit) > length:
                    nearest, length = chunk, min(same, limit)
        if nearest is None:
            return None
        kv_cache = KVCache(length, nearest.blocks, keep=True)
        states, pooled = model.compute(x[:, length:], pooled_at, kv_cache)
        whole = torch.cat([nearest.states[:length], states[0]])
        return self._store(key, x[0], whole, pooled, kv_cache.blocks)

    def _store(
        self,
        key: Key,
        x: Tensor,
        states: Tensor,
        pooled: Tensor,
        blocks: Sequence[tuple[Tensor, Tensor]],
    ) -> _Chunk:
        """Store copies of a result, since *x* may be part of a batch, and drop the oldest."""
        result = self._results[key] = _Chunk(x.clone(), states.clone(), pooled.clone())
        if blocks:
            copies = [(keys.clone(), values.clone()) for keys, values in blocks]
            self._prefixes[key] = replace(result, blocks=copies)
        for stored, limit in ((self._results, MAX_RESULTS), (self._prefixes, MAX_PREFIXES)):
            while len(stored) > limit:
                stored.popitem(last=False)
        return result
