"""Detects that weights changed since something was derived from them.

Always detected: a replaced layer or parameter, a change in place, an assignment to ``data``, and
unfreezing. Writes that torch does not count (``weight.data += …``, numpy's, fused optimizers') are
detected if they touch a sample of the values.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Iterable, Sequence
from itertools import chain, compress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

SAMPLE_BYTES = 32
"""Bytes compared of each tensor, from its middle."""

_METHODS = frozenset(["forward", "gelu", "forward_at"])
"""The methods of a layer that are called; other code may replace them on the instance."""

_changes = operator.attrgetter("_version")
_kind = operator.attrgetter("dtype", "requires_grad")


class TensorFingerprint:
    """State of tensors, all of which ``is_plain``; keeps no reference to them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._addresses = _addresses(tensors)
        self._kinds = list(map(_kind, tensors))
        self._are_matrices = [tensor.dim() > 1 for tensor in tensors]
        self._forms = _forms(list(compress(tensors, self._are_matrices)))
        # Read through ctypes: torch takes ten times as long, and numpy would pin the storage.
        self._samples = [_sample(tensor) for tensor in tensors]
        self._sampled = [sample.raw for sample in self._samples]

    def matches(self, tensors: Sequence[Tensor]) -> bool:
        """Tell whether *tensors*, the ones the fingerprint was taken of, are unchanged."""
        try:
            addresses = _addresses(tensors)
        except RuntimeError:  # its layout changed to one that has no address
            return False
        return (
            addresses == self._addresses  # so the sampled memory still exists
            and list(map(_kind, tensors)) == self._kinds
            and _forms(list(compress(tensors, self._are_matrices))) == self._forms
            and [sample.raw for sample in self._samples] == self._sampled
        )


class WeightsFingerprint:
    """State of a module's layers and weights, without hooks or other additions.

    Checking it is most of the cost of a cached result, and most of that is reading memory that an
    encode has evicted from the processor's caches; so it touches each object once.
    """

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.modules())
        self._module = module
        # torch changes these dicts in place and never replaces them.
        self._shapes = [
            (vars(part), len(vars(part)), part._forward_hooks, part._forward_pre_hooks)
            for part in modules
        ]
        self._holders = [
            held for part in modules for held in (part._parameters, part._modules) if held
        ]
        self._held = list(_values(self._holders))
        self._empty = [
            held for part in modules for held in (part._parameters, part._modules) if not held
        ]
        self._parameters = list(module.parameters())
        self._tensors = TensorFingerprint(self._parameters)

    def matches(self, module: nn.Module) -> bool:
        """Tell whether *module* is the same object, unchanged."""
        if module is not self._module or any(self._empty) or _has_global_hooks():
            return False
        for attributes, count, hooks, pre_hooks in self._shapes:
            if hooks or pre_hooks or len(attributes) != count:
                return False
        held = list(_values(self._holders))
        return (
            len(held) == len(self._held)
            and all(map(operator.is_, held, self._held))
            and self._tensors.matches(self._parameters)
        )


def is_plain(tensor: Tensor) -> bool:
    """Tell whether changes of *tensor* can be detected: values on the CPU that nothing trains."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.requires_grad  # fused optimizers' steps are not counted
        and not tensor.is_inference()  # nor are changes of inference tensors
        and tensor.data_ptr() != 0
    )


def is_altered(module: nn.Module) -> bool:
    """Tell whether results of *module* may depend on more than its classes and its weights."""
    return (
        _has_global_hooks()
        or any(
            part._forward_hooks or part._forward_pre_hooks or not _METHODS.isdisjoint(vars(part))
            for part in module.modules()
        )
        or not all(map(is_plain, module.parameters()))
    )


def _has_global_hooks() -> bool:
    """Tell whether hooks are registered for all modules of the process."""
    return bool(_global_forward_hooks or _global_forward_pre_hooks)


def _values(holders: Iterable[dict[str, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, holders))


def _addresses(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Return the address of each tensor, and torch's count of its changes."""
    return list(map(Tensor.data_ptr, tensors)), list(map(_changes, tensors))


def _forms(tensors: Sequence[Tensor]) -> list[Any]:
    """Return shapes and strides, which an assignment to ``data`` can change alone."""
    return [*map(Tensor.size, tensors), *map(Tensor.stride, tensors)]


def _sample(tensor: Tensor) -> Any:
    """Return a live view of some of a tensor's bytes: the middle ones if it is contiguous."""
    start, length = 0, min(tensor.element_size(), tensor.nbytes)
    if tensor.is_contiguous():
        length = min(SAMPLE_BYTES, tensor.nbytes)
        start = (tensor.nbytes - length) // 2
    return (ctypes.c_char * length).from_address(tensor.data_ptr() + start)
