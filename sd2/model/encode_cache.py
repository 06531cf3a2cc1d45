"""Caches recent encoder outputs, and key/value prefixes for edited prompts.

Three prompts are not computed in full: one that was encoded before, the empty prompt that weights
are measured from, and one that begins as a recent one does. Attention is causal, so the states
before an edit stay the same. Only for encoders on the CPU, where computing is slow. While something
else takes part in the computation (autocast, hooks, patches), everything is computed and nothing is
cached.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .text_model import KVCache
from .weights_fingerprint import WeightsFingerprint, is_altered

MAX_RESULTS = 32
"""Chunks whose results are kept: 0.3 MB each at SD2's size."""

MAX_PREFIXES = 4
"""Chunks whose keys and values are kept too: 15 MB each at SD2's size."""


class Chunk(NamedTuple):
    """One input of the encoder."""

    entries: tuple[int | Tensor, ...]
    """Token ids, and vectors (W,)."""
    pooled_at: int | None
    """Position of the pooled vector; None if it is not requested."""


class CacheableEncoder(Protocol):
    """What ``EncodeCache`` computes with: an ``SDClipModel``."""

    @property
    def transformer(self) -> nn.Module:
        """Holds all weights that results depend on."""

    def cache_key(self) -> tuple[Any, ...]:
        """Return all options that results depend on."""

    def embed(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """Return token vectors with positions, (B, T, W), and positions of pooled vectors, (P,)."""

    def compute(self, x: Tensor, pooled_at: Tensor, kv_cache: KVCache) -> tuple[Tensor, Tensor]:
        """Return the states after the cached positions, (B, T, W), and pooled vectors, (P, W)."""


class _Key(NamedTuple):
    options: tuple[Any, ...]
    entries: tuple[int | bytes, ...]
    pooled_at: int | None


@dataclass(frozen=True)
class _Result:
    states: Tensor
    """(T, W)"""
    pooled: Tensor
    """(1, W), or (0, W) if it was not requested."""


Blocks = Sequence[tuple[Tensor, Tensor]]
"""Keys and values of each block, (1, T, W) each."""


class EncodeCache:
    """Results of the last chunks, valid while the weights are unchanged."""

    def __init__(self) -> None:
        self._results: OrderedDict[_Key, _Result] = OrderedDict()
        self._prefixes: OrderedDict[_Key, tuple[_Result, Blocks]] = OrderedDict()
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

    def encode(self, model: CacheableEncoder, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """Return ``model.compute`` of *chunks* of one length, from the cache if possible.

        One thread at a time: two would only compete for the cores.
        """
        with self._lock:
            if not self._is_valid(model.transformer):
                return model.compute(*model.embed(chunks), KVCache())
            results = self._encode(model, chunks)
            states = torch.stack([result.states for result in results])
            return states, torch.cat([result.pooled for result in results])

    def _is_valid(self, transformer: nn.Module) -> bool:
        """Tell whether results may be stored, after dropping those of other weights."""
        if torch.is_autocast_enabled("cpu"):
            return False
        if self._fingerprint is None or not self._fingerprint.matches(transformer):
            self._clear()
            if is_altered(transformer):
                return False
            self._fingerprint = WeightsFingerprint(transformer)
        return True

    def _encode(self, model: CacheableEncoder, chunks: Sequence[Chunk]) -> list[_Result]:
        options = model.cache_key()
        keys = [_key(options, chunk) for chunk in chunks]
        found: dict[_Key, _Result] = {}
        missing: dict[_Key, Chunk] = {}
        for key, chunk in zip(keys, chunks, strict=True):
            result = self._results.get(key)
            if result is not None:
                self._results.move_to_end(key)
            elif key not in missing:
                result = self._extend_prefix(model, key, chunk)
            if result is None:
                missing[key] = chunk
            else:
                found[key] = result
        if missing:
            kv_cache = KVCache(keep=len(missing) <= MAX_PREFIXES)
            states, pooled = model.compute(*model.embed(list(missing.values())), kv_cache)
            for row, key in enumerate(missing):
                blocks = [(k[row : row + 1], v[row : row + 1]) for k, v in kv_cache.blocks]
                found[key] = self._store(key, states[row], pooled[row : row + 1], blocks)
        return [found[key] for key in keys]

    def _extend_prefix(self, model: CacheableEncoder, key: _Key, chunk: Chunk) -> _Result | None:
        """Compute a chunk from the longest cached prefix; None if there is none."""
        nearest = None
        length = len(key.entries) // 4  # a shorter prefix saves less than batching does
        for other, prefix in self._prefixes.items():
            if _is_comparable(key, other):
                same = _first_difference(key.entries, other.entries)
                if key.pooled_at is not None:
                    same = min(same, key.pooled_at)  # which is computed
                if same > length:
                    nearest, length = prefix, same
        if nearest is None:
            return None
        known, blocks = nearest
        kv_cache = KVCache(length, blocks, keep=True)
        x, pooled_at = model.embed([chunk])
        states, pooled = model.compute(x[:, length:], pooled_at, kv_cache)
        whole = torch.cat([known.states[:length], states[0]])
        return self._store(key, whole, pooled, kv_cache.blocks)

    def _store(self, key: _Key, states: Tensor, pooled: Tensor, blocks: Blocks) -> _Result:
        """Store copies of a result, which may be part of a batch, and drop the oldest."""
        result = self._results[key] = _Result(states.clone(), pooled.clone())
        if blocks:
            self._prefixes[key] = result, [(k.clone(), v.clone()) for k, v in blocks]
        for stored, limit in ((self._results, MAX_RESULTS), (self._prefixes, MAX_PREFIXES)):
            while len(stored) > limit:
                stored.popitem(last=False)
        return result


def _key(options: tuple[Any, ...], chunk: Chunk) -> _Key:
    values = tuple(
        entry if isinstance(entry, int) else entry.detach().cpu().numpy().tobytes()
        for entry in chunk.entries
    )
    return _Key(options, values, chunk.pooled_at)


def _is_comparable(key: _Key, other: _Key) -> bool:
    """Tell whether two results have the same options, length and number of computed blocks."""
    return (
        key.options == other.options
        and len(key.entries) == len(other.entries)
        and (key.pooled_at is None) == (other.pooled_at is None)
    )


def _first_difference(a: Sequence[object], b: Sequence[object]) -> int:
    """Return the first index, below the last, at which two sequences of one length differ."""
    return next((i for i in range(len(a) - 1) if a[i] != b[i]), len(a) - 1)
