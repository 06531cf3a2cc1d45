"""What an encoder has computed lately, so that it computes nothing twice.

A prompt encoded again, the empty prompt that weights are measured from, and the beginning of a
prompt that was edited further on: attention is causal, so places before the edit keep their
states. Only for encoders on the CPU, where that is slow and comparing costs nothing.

Where something else has a hand in the computation (autocast, hooks, replaced methods), all is
computed and nothing remembered.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .text_model import Past

RESULTS = 32
"""Chunks whose results are kept: 0.6 MB each at SD2's size."""

PASTS = 4
"""Chunks whose keys and values are kept too: 15 MB each at SD2's size."""

SAMPLE = 8
"""Numbers of each weight that are compared before an old result counts."""

_METHODS = frozenset(["forward", "gelu", "row"])
"""What is called of a layer; others may put their own in its place, on the instance."""

Key = tuple[Any, ...]
"""What the result is for (layer, projection), whether with a pooled row, and all of the input."""


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
    """One chunk's input and result; ``pooled`` is (1, W), or (0, W) if it was not wanted."""

    x: Tensor
    states: Tensor
    pooled: Tensor
    blocks: Sequence[tuple[Tensor, Tensor]]


class Recall:
    """Results of the last chunks, valid as long as the weights are what they were."""

    def __init__(self) -> None:
        self._results: OrderedDict[Key, tuple[Tensor, Tensor]] = OrderedDict()
        self._pasts: OrderedDict[Key, _Chunk] = OrderedDict()
        self._weights: _Weights | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Recall:
        return Recall()  # a copy of a model gets other weights

    def encode(self, model: Encoder, x: Tensor, pooled_at: Tensor) -> tuple[Tensor, Tensor]:
        """``model.compute`` on x (B, T, W), float32 on the CPU; pooled rows for the first P."""
        modules, tensors = _parts(model.transformer)
        if torch.is_autocast_enabled("cpu") or any(map(_is_altered, modules)):
            return model.compute(x, pooled_at, Past())
        if self._weights is None or not self._weights.are(modules, tensors):
            self._results.clear()
            self._pasts.clear()
            self._weights = _Weights(modules, tensors)
        count = len(pooled_at)
        keys: list[Key] = [
            (model.purpose(), i < count, one.numpy().tobytes()) for i, one in enumerate(x)
        ]
        rows: dict[Key, tuple[Tensor, Tensor]] = {}
        fresh: dict[Key, int] = {}
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
            at = pooled_at[[i for i in fresh.values() if i < count]]
            past = Past(keep=len(batch) <= PASTS)
            states, pooled = model.compute(batch, at, past)
            for row, key in enumerate(fresh):
                blocks = [(k[row : row + 1], v[row : row + 1]) for k, v in past.blocks]
                rows[key] = self._keep(key, batch[row], states[row], pooled[row : row + 1], blocks)
        found = [rows[key] for key in keys]
        return torch.stack([row[0] for row in found]), torch.cat([row[1] for row in found])

    def _continue(
        self, model: Encoder, key: Key, x: Tensor, pooled_at: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """The result of one chunk, (1, T, W), that begins as a kept one does; None: none does."""
        near: _Chunk | None = None
        length = x.shape[1] // 4  # less than that is not worth leaving the batch
        limit = int(pooled_at[0]) if len(pooled_at) else x.shape[1] - 1
        for (purpose, pooled, _), chunk in self._pasts.items():
            if (purpose, pooled) == key[:2] and chunk.x.shape == x.shape[1:]:
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
    ) -> tuple[Tensor, Tensor]:
        """Remember a result, forgetting the oldest; copies, since *x* may be part of a batch."""
        result = states.clone(), pooled.clone()
        self._results[key] = result
        if blocks:
            copies = [(keys.clone(), values.clone()) for keys, values in blocks]
            self._pasts[key] = _Chunk(x.clone(), *result, copies)
        for memory, most in ((self._results, RESULTS), (self._pasts, PASTS)):
            while len(memory) > most:
                memory.popitem(last=False)
        return result


class _Weights:
    """How a model's weights were: which tensors, how often changed, and some of their numbers.

    Replacing a layer or a parameter, changing it in place and assigning its ``data`` are all seen
    for certain; a write through ``data`` (``weight.data += …``) goes unnoticed by torch and is seen
    if it touches the sample.
    """

    def __init__(self, modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> None:
        self._modules = modules
        self._tensors = tensors
        self._states = _states(tensors)
        self._views = [_sample(tensor) for tensor in tensors]
        self._numbers = torch.cat(self._views)

    def are(self, modules: Sequence[nn.Module], tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same, unchanged."""
        return (
            _same(modules, self._modules)
            and _same(tensors, self._tensors)
            and _states(tensors) == self._states
            and torch.equal(torch.cat(self._views), self._numbers)
        )


def _same(now: Sequence[Any], before: Sequence[Any]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _states(tensors: Sequence[Tensor]) -> list[tuple[int, int, torch.dtype]]:
    try:
        return [(t._version, t.data_ptr(), t.dtype) for t in tensors]
    except RuntimeError:  # tensors made in inference mode count no changes
        return [(-1, t.data_ptr(), t.dtype) for t in tensors]


def _parts(module: nn.Module) -> tuple[list[nn.Module], list[Tensor]]:
    """``module.modules()`` and ``module.parameters()`` in a tenth of the time."""
    modules: list[nn.Module] = [module]
    tensors: list[Tensor] = []
    for part in modules:  # grows meanwhile
        tensors += [p for p in part._parameters.values() if p is not None]
        modules += [child for child in part._modules.values() if child is not None]
    return modules, tensors


def _is_altered(module: nn.Module) -> bool:
    """Whether calls of *module* do more, or other things, than its class and weights say."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or not _METHODS.isdisjoint(module.__dict__)
    )


def _sample(tensor: Tensor) -> Tensor:
    """Numbers from the middle, as a view."""
    if not tensor.is_contiguous():
        return tensor.detach().flatten()[:0]  # no view of it is flat
    flat = tensor.detach().view(-1)
    start = max(len(flat) // 2 - SAMPLE // 2, 0)
    return flat[start : start + SAMPLE]
