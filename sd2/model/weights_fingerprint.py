"""Whether weights are still what they were when something was derived from them.

Replacing a layer or a parameter, changing one in place, assigning its ``data`` and unfreezing it
are all seen for certain. Writes of which torch keeps no count (``weight.data += …``, numpy's, those
of fused optimizers) are seen if they touch a sample of the numbers.
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
"""Of each tensor, from its middle."""

_METHODS = frozenset(["forward", "gelu", "row"])
"""What is called of a layer; others may put their own in its place, on the instance."""

_changes = operator.attrgetter("_version")
_kind = operator.attrgetter("dtype", "requires_grad")


class TensorSnapshot:
    """How tensors were, all of which ``is_plain``; it does not hold them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._places = _places(tensors)
        self._kinds = list(map(_kind, tensors))
        self._are_matrices = [tensor.dim() > 1 for tensor in tensors]
        self._forms = _forms(list(compress(tensors, self._are_matrices)))
        # Neither torch nor numpy looks at them: torch takes ten times as long, and numpy would pin
        # the storage.
        self._samples = [_sample(tensor) for tensor in tensors]
        self._numbers = [sample.raw for sample in self._samples]

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether *tensors*, the same as before, are unchanged."""
        try:
            places = _places(tensors)
        except RuntimeError:  # of another layout by now, without an address
            return False
        return (
            places == self._places  # so there is still memory to look at
            and list(map(_kind, tensors)) == self._kinds
            and _forms(list(compress(tensors, self._are_matrices))) == self._forms
            and [sample.raw for sample in self._samples] == self._numbers
        )


class ModuleSnapshot:
    """How a module was, with all that is in it: layers, weights, and nothing beside them.

    Checking it is most of the price of a remembered result, and nearly all of that is memory that
    an encode has pushed out of the caches; so it touches each object once.
    """

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.modules())
        self._module = module
        # The dicts are torch's own, which it changes but never replaces.
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
        self._tensors = TensorSnapshot(self._parameters)

    def holds(self, module: nn.Module) -> bool:
        """Whether *module* is the same one, and unchanged."""
        if module is not self._module or any(self._empty) or _hooks_on_all():
            return False
        for attributes, count, hooks, pre_hooks in self._shapes:
            if hooks or pre_hooks or len(attributes) != count:
                return False
        held = list(_values(self._holders))
        return (
            len(held) == len(self._held)
            and all(map(operator.is_, held, self._held))
            and self._tensors.holds(self._parameters)
        )


def is_plain(tensor: Tensor) -> bool:
    """Whether changes of *tensor* can be seen: numbers on the CPU that nothing trains."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.requires_grad  # fused optimizers' steps are not counted
        and not tensor.is_inference()  # nor is anything there
        and tensor.data_ptr() != 0
    )


def is_altered(module: nn.Module) -> bool:
    """Whether a call of *module* does more, or other things, than its classes and weights say."""
    return (
        _hooks_on_all()
        or any(
            part._forward_hooks or part._forward_pre_hooks or not _METHODS.isdisjoint(vars(part))
            for part in module.modules()
        )
        or not all(map(is_plain, module.parameters()))
    )


def _hooks_on_all() -> bool:
    """Whether somebody has hooked into every module that there is."""
    return bool(_global_forward_hooks or _global_forward_pre_hooks)


def _values(holders: Iterable[dict[str, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, holders))


def _places(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Where tensors lie, and how often torch has seen each change."""
    return list(map(Tensor.data_ptr, tensors)), list(map(_changes, tensors))


def _forms(tensors: Sequence[Tensor]) -> list[Any]:
    """How the numbers of matrices are to be read, which an assigned ``data`` can change alone."""
    return [*map(Tensor.size, tensors), *map(Tensor.stride, tensors)]


def _sample(tensor: Tensor) -> Any:
    """Some of a tensor's bytes, as they are at any time: the middle ones where it is contiguous."""
    start, length = 0, min(tensor.element_size(), tensor.nbytes)
    if tensor.is_contiguous():
        length = min(SAMPLE_BYTES, tensor.nbytes)
        start = (tensor.nbytes - length) // 2
    return (ctypes.c_char * length).from_address(tensor.data_ptr() + start)
