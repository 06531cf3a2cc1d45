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

from torch import Tensor, nn

SAMPLE_BYTES = 32
"""Of each tensor, from its middle."""

_METHODS = frozenset(["forward", "gelu", "row"])
"""What is called of a layer; others may put their own in its place, on the instance."""

_changes = operator.attrgetter("_version")
_kind = operator.attrgetter("dtype", "requires_grad")


class TensorSnapshot:
    """How tensors on the CPU were; it does not hold them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._places = _places(tensors)
        self._are_matrices = [tensor.dim() > 1 for tensor in tensors]
        self._forms = _forms(list(compress(tensors, self._are_matrices)))
        # Neither torch nor numpy looks at them: torch takes ten times as long, and numpy would pin
        # the storage.
        self._samples = [_sample(tensor) for tensor in tensors]
        self._numbers = [sample.raw for sample in self._samples]

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether *tensors*, the same as before, are unchanged."""
        return (
            _places(tensors) == self._places  # so there is still memory to look at
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
        if module is not self._module or any(self._empty):
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


def is_altered(module: nn.Module) -> bool:
    """Whether a call of *module* does more, or other things, than its classes and weights say.

    Or will soon: weights that are being trained change in ways that nobody counts.
    """
    return any(
        part._forward_hooks or part._forward_pre_hooks or not _METHODS.isdisjoint(vars(part))
        for part in module.modules()
    ) or any(parameter.requires_grad for parameter in module.parameters())


def _values(holders: Iterable[dict[str, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, holders))


def _places(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    """Where tensors lie, and how often torch has seen each change."""
    addresses = list(map(Tensor.data_ptr, tensors))
    try:
        return addresses, list(map(_changes, tensors))
    except RuntimeError:  # tensors made in inference mode count no changes
        return addresses, []


def _forms(tensors: Sequence[Tensor]) -> list[Any]:
    """How the numbers of matrices are to be read, which an assigned ``data`` can change alone."""
    return [*map(_kind, tensors), *map(Tensor.size, tensors), *map(Tensor.stride, tensors)]


def _sample(tensor: Tensor) -> Any:
    """Some of a tensor's bytes, as they are at any time: the middle ones where it is contiguous."""
    start, length = 0, min(tensor.element_size(), tensor.nbytes)
    if tensor.is_contiguous():
        length = min(SAMPLE_BYTES, tensor.nbytes)
        start = (tensor.nbytes - length) // 2
    return (ctypes.c_char * length).from_address(tensor.data_ptr() + start)
