"""Whether weights are still what they were when something was derived from them.

Replacing a layer or a parameter, changing one in place and assigning its ``data`` are all seen for
certain. A write through ``data`` (``weight.data += …``), of which torch keeps no count, is seen if
it touches the sample of a matrix.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

SAMPLE = 8
"""Numbers of each matrix that are compared."""

_METHODS = frozenset(["forward", "gelu", "row"])
"""What is called of a layer; others may put their own in its place, on the instance."""


class TensorSnapshot:
    """How tensors were: where they lay, how often they were changed, and some of their numbers."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._states = _states(tensors)
        # Views of numpy's, since torch takes ten times as long to look at a few numbers.
        self._views = [_sample(tensor) for tensor in tensors if tensor.dim() > 1]
        self._numbers = [view.tobytes() for view in self._views]

    def holds(self) -> bool:
        """Whether they are unchanged."""
        return (
            _states(self._tensors) == self._states
            and [view.tobytes() for view in self._views] == self._numbers
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
        self._tensors = TensorSnapshot(list(module.parameters()))

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
            and self._tensors.holds()
        )


def is_altered(module: nn.Module) -> bool:
    """Whether a call of *module* does more, or other things, than its classes and weights say."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or not _METHODS.isdisjoint(vars(part))
        for part in module.modules()
    )


def _values(holders: Iterable[dict[str, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, holders))


_changes = operator.attrgetter("_version")


def _states(tensors: Sequence[Tensor]) -> tuple[list[int], list[int]]:
    places = list(map(Tensor.data_ptr, tensors))
    try:
        return places, list(map(_changes, tensors))
    except RuntimeError:  # tensors made in inference mode count no changes
        return places, []


def _sample(tensor: Tensor) -> Any:
    """The bytes of numbers from the middle, as a view: a numpy array."""
    if not tensor.is_contiguous():
        return tensor.detach().new_empty(0).view(torch.uint8).numpy()  # no view of it is flat
    flat = tensor.detach().view(-1)
    start = max(len(flat) // 2 - SAMPLE // 2, 0)
    return flat[start : start + SAMPLE].view(torch.uint8).numpy()
