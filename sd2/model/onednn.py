"""oneDNN's matrix product on the CPU, with weights as stored and with weights in its own layout.

Both are private operations of torch, which torch.compile uses: they are looked up when first
needed, and each has to compute a small product correctly before it is used.
"""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, MutableMapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 torch's own name for it
from torch.utils.weak import WeakIdKeyDictionary

from .weights_fingerprint import last_event, state_of

log = logging.getLogger("sd2_clip")

PACK_AFTER: float = 12
"""Products of few rows with a weight before it is packed; ``math.inf``: it is never packed.

Packing takes as long as two to four prompts do, and then saves a sixth or more of each.
"""

FEW_ROWS = 256
"""Up to three chunks. With more, packing saves a twentieth: not worth the memory."""


@cache
def linear_pointwise() -> Any:
    """Return torch's fused product ``(x, w, b, activation, [], algorithm)``, None if unavailable.

    At a prompt's 77 rows it computes about 1.5 times as fast as ``F.linear`` (MKL).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None  # not measured on other processors
    return _proven("_linear_pointwise", lambda product: (product, lambda weight: weight))


@cache
def reorder_weight() -> Any:
    """Return torch's ``(w, rows) -> w`` in oneDNN's own layout, None if unavailable.

    Products with the result need not reorder *w*: a sixth of the time at 77 rows.
    """
    product = linear_pointwise()
    return product and _proven(
        "_reorder_linear_weight", lambda reorder: (product, lambda weight: reorder(weight, 77))
    )


def _proven(name: str, use: Callable[[Any], tuple[Any, Any]]) -> Any:
    """Return an operation of torch's that exists and computes a small product correctly."""
    cpu = torch.device("cpu")  # whatever the default may be
    x = torch.arange(-32.0, 32.0, device=cpu).reshape(4, 16) / 8
    weight, bias = torch.arange(512.0, device=cpu).reshape(32, 16).sin(), torch.ones(32, device=cpu)
    plain = F.linear(x, weight, bias)
    try:
        operation = getattr(torch.ops.mkldnn, name)
        product, prepare = use(operation)
        for activation, algorithm, right in (("none", "", plain), ("gelu", "none", F.gelu(plain))):
            found = product(x, prepare(weight), bias, activation, [], algorithm)
            torch.testing.assert_close(found, right)
    except (AttributeError, RuntimeError, AssertionError) as error:
        log.debug("torch's mkldnn::%s is not used: %s", name, error)
        return None
    return operation


@cache
def has_bf16() -> bool:
    """Tell whether this CPU multiplies bf16 matrices in hardware (AVX512_BF16 or AMX)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    found = any(getattr(torch.cpu, name, bool)() for name in names)
    return found and linear_pointwise() is not None


class _Packed(NamedTuple):
    weight: Tensor
    """In oneDNN's layout."""
    of: tuple[int, int]
    """``state_of`` the parameter, which must not be kept alive here."""


_packed: MutableMapping[Tensor, _Packed | int] = WeakIdKeyDictionary()
"""For each weight in use: its packed copy, or the number of its uses so far."""
_packing = threading.Lock()
_scratch = threading.local()


def operand(
    weight: Tensor, rows: int, dtype: torch.dtype, free_memory: Callable[[], float]
) -> Tensor:
    """Return what to multiply *rows* rows of *dtype* with; valid until the thread's next call.

    That is *weight*, converted if need be, or after ``PACK_AFTER`` uses a packed copy. The copy is
    valid while the parameter is the same object with the same ``state_of``, and is freed with it.
    All layers with one parameter share it; whatever needs plain values reads the parameter. None is
    made of a weight whose changes are not counted, nor while *free_memory*, in bytes, is below
    twice the size of the copies that are still to be made.
    """
    known, state = _packed.get(weight, 0), state_of(weight)
    if isinstance(known, _Packed):
        if known.of == state and known.weight.dtype == dtype:
            return known.weight
        forget(weight)
        known = 0
    plain = _converted(weight, dtype)
    if state is not None and rows <= FEW_ROWS and reorder_weight() is not None:
        _packed[weight] = known + 1
        if known + 1 == PACK_AFTER:
            with _packing:
                _pack(weight, plain, state, free_memory())
    return plain


def forget(weight: Tensor) -> None:
    """Free the packed copy of *weight*, if there is one."""
    _packed.pop(weight, None)


def _converted(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return *weight* in *dtype*, in memory that the thread uses again: new memory is slow."""
    if weight.dtype == dtype:
        return weight
    buffer = getattr(_scratch, "buffer", None)
    if buffer is None or buffer.dtype != dtype or buffer.numel() < weight.numel():
        with torch.inference_mode(False):  # for use in every mode
            buffer = _scratch.buffer = torch.empty(weight.numel(), dtype=dtype, device="cpu")
    return buffer[: weight.numel()].view(weight.shape).copy_(weight)


def _pack(weight: Tensor, plain: Tensor, state: tuple[int, int], free_memory: float) -> None:
    waiting = [key.numel() for key, known in list(_packed.items()) if isinstance(known, int)]
    event, problem = last_event(), "there is too little free memory"
    if free_memory >= 2 * sum(waiting) * plain.dtype.itemsize:
        try:
            packed = reorder_weight()(plain.detach(), FEW_ROWS)
            # Another thread may have written other values meanwhile.
            if state_of(weight) == state and last_event() == event:
                _packed[weight] = _Packed(packed, state)
            return
        except RuntimeError as error:  # no memory
            problem = str(error)
    _warn_once(f"Weights could not be packed for speed, so they are used as they are: {problem}.")


@cache
def _warn_once(message: str) -> None:
    log.warning("%s", message)
