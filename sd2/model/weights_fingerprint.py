"""Detects that weights changed since something was derived from them.

What is derived from weights is valid while each parameter is the same object, at the same address,
with torch's count of its changes. Writes through ``data`` are not counted; so our layers also note
when other code reads their ``weight`` or ``bias``, since it may write. A write to the ``data`` of a
parameter from ``parameters()`` is not detected: ``weights_read()`` of any layer makes up for it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, nn

_METHODS = frozenset(["forward", "gelu", "forward_at"])
"""The methods of a module that are called; other code may replace them on the instance."""

_version, _requires_grad = map(operator.attrgetter, ("_version", "requires_grad"))
_events, _last_event = count(1), 0


def last_event() -> int:
    """Return a number that changes whenever a ``WatchedModule`` may have changed."""
    return _last_event


def _note_event() -> None:
    global _last_event
    _last_event = next(_events)


class WatchedModule(nn.Module):
    """A module that notes changes of its attributes, parts and hooks."""

    def __setattr__(self, name: str, value: Any) -> None:
        _note_event()
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        _note_event()
        super().__delattr__(name)

    def add_module(self, *args: Any) -> None:
        _note_event()
        super().add_module(*args)

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        _note_event()
        return super().register_forward_hook(*args, **kwargs)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        _note_event()
        return super().register_forward_pre_hook(*args, **kwargs)

    def is_ordinary(self) -> bool:
        """Tell whether the module's result depends on its class, its weights and its input only."""
        return True


class WatchedList(WatchedModule, nn.ModuleList):
    """A list that notes changes of its items."""

    def insert(self, index: int, module: nn.Module) -> None:
        _note_event()
        super().insert(index, module)


class WatchedLayer(WatchedModule):
    """A layer that also notes when other code reads its weights. It reads ``_parameters``."""

    def __getattr__(self, name: str) -> Any:
        if name in ("weight", "bias"):
            self.weights_read()
        return super().__getattr__(name)

    def weights_read(self) -> None:
        """Make everything that was derived from weights invalid."""
        _note_event()


def state_of(weight: Tensor) -> tuple[int, int] | None:
    """Return address and version of a frozen weight on the CPU; None if changes are not counted."""
    if (
        type(weight) not in (Tensor, nn.Parameter)
        or weight.device.type != "cpu"
        or weight.layout != torch.strided
        or weight.requires_grad  # fused optimizers' steps are not counted
        or weight.is_inference()
        or weight.data_ptr() == 0
    ):
        return None
    return weight.data_ptr(), weight._version


class WeightsFingerprint:
    """State of a module's parts and weights.

    Checking it is most of the cost of a cached result, and most of that is reading memory that an
    encode has evicted from the processor's caches; so it touches each object once.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self._module, self._event = module, last_event()
        # torch changes these dicts in place and never replaces them.
        self._holders = [part._parameters for part in parts if part._parameters]
        self._held = list(_values(self._holders))
        self._parameters = [held for held in self._held if held is not None]
        self._states = _states(self._parameters)
        self._checks = [
            part.is_ordinary
            for part in parts
            if isinstance(part, WatchedModule)
            and type(part).is_ordinary is not WatchedModule.is_ordinary
        ]

    def matches(self, module: nn.Module) -> bool:
        """Tell whether *module* is the same object, unchanged."""
        if module is not self._module or self._event != last_event() or _has_global_hooks():
            return False
        held = list(_values(self._holders))
        return (
            len(held) == len(self._held)
            and all(map(operator.is_, held, self._held))
            and not any(map(_requires_grad, self._parameters))
            and _states(self._parameters) == self._states
            and all(check() for check in self._checks)
        )


def is_altered(module: nn.Module) -> bool:
    """Tell whether results of *module* may depend on more than its classes and its weights."""
    return _has_global_hooks() or not all(map(_is_plain, module.modules()))


def _is_plain(part: nn.Module) -> bool:
    own = [tensor for tensor in part._parameters.values() if tensor is not None]
    return (
        isinstance(part, WatchedLayer if own else WatchedModule)
        and part.is_ordinary()
        and not (part._forward_hooks or part._forward_pre_hooks)
        and _METHODS.isdisjoint(vars(part))
        and all(state_of(tensor) is not None for tensor in own)
    )


def _has_global_hooks() -> bool:
    """Tell whether all modules of the process may have hooks. The names are private to torch."""
    names = ("_global_forward_hooks", "_global_forward_pre_hooks")
    return any(getattr(nn.modules.module, name, True) for name in names)


def _states(tensors: list[nn.Parameter]) -> tuple[list[int], list[int]]:
    return list(map(Tensor.data_ptr, tensors)), list(map(_version, tensors))


def _values(holders: Iterable[dict[str, nn.Parameter | None]]) -> Iterable[nn.Parameter | None]:
    return chain.from_iterable(map(dict.values, holders))
