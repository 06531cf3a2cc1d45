"""oneDNN's matrix product on the CPU, with weights as stored and with weights in its own layout.

Both are private operations that torch.compile uses, so each is checked on a small product first.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import platform
import threading
from collections.abc import MutableMapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 torch's own name for it
from torch.utils.weak import WeakIdKeyDictionary

from .weights_fingerprint import TensorFingerprint, is_plain

log = logging.getLogger("sd2_clip")

PACK_AFTER: float = 16
"""Products of few rows with a weight before it is packed; ``math.inf``: it is never packed.

Packing takes as long as two to six prompts do, and then saves a sixth of each.
"""

FEW_ROWS = 256
"""Up to three chunks. With more, packing saves a twentieth: not worth the memory."""

_PAGE = mmap.PAGESIZE
_PAGEMAP, _MAPS = Path("/proc/self/pagemap"), Path("/proc/self/maps")
# Of the 64 bits that the kernel gives for a page (kernel.org: admin-guide/mm/pagemap).
_PRESENT = 0b11 << 62  # in memory, or in swap
_OF_A_FILE = 1 << 61  # or of memory that processes share


@cache
def linear_pointwise() -> Any:
    """Return torch's fused product ``(x, w, b, activation, [], algorithm)``, None if unavailable.

    At a prompt's 77 rows it computes about 1.5 times as fast as ``F.linear`` (MKL).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None  # not measured on other processors
    try:
        product = torch.ops.mkldnn._linear_pointwise
        _prove(product, lambda weight: weight)
    except (AttributeError, RuntimeError, AssertionError) as error:
        log.debug("This torch lacks oneDNN's fused product, so its plain one is used: %s", error)
        return None
    return product


@cache
def reorder_weight() -> Any:
    """Return torch's ``(w, rows) -> w`` in oneDNN's own layout, None if unavailable.

    Products with the result need not reorder *w*: a sixth of the time at 77 rows.
    """
    try:
        if linear_pointwise() is None or not _PAGEMAP.exists():
            return None
        reorder = torch.ops.mkldnn._reorder_linear_weight
        _prove(linear_pointwise(), lambda weight: reorder(weight, FEW_ROWS))
    except (AttributeError, RuntimeError, AssertionError, OSError) as error:
        log.debug("No weights are packed here: %s", error)
        return None
    return reorder


def _prove(product: Any, prepare: Any) -> None:
    cpu = torch.device("cpu")  # whatever the default may be
    x = torch.arange(-32.0, 32.0, device=cpu).reshape(4, 16) / 8
    weight = torch.arange(512.0, device=cpu).reshape(32, 16).sin()
    bias = torch.arange(32.0, device=cpu).cos()
    plain = F.linear(x, weight, bias)
    for activation, algorithm, expected in (("none", "", plain), ("gelu", "none", F.gelu(plain))):
        found = product(x, prepare(weight), bias, activation, [], algorithm)
        torch.testing.assert_close(found, expected)


class _Packed(NamedTuple):
    weight: Tensor
    """In oneDNN's layout."""
    of: TensorFingerprint
    """The fingerprint of the original weight, which must not be kept alive here."""


_packed: MutableMapping[Tensor, _Packed | int] = WeakIdKeyDictionary()
"""For each weight: its packed copy, or the number of its uses so far."""

packing = threading.RLock()
"""Held while a weight is packed, and while other values are loaded into one: otherwise the file's
values would return when the weight's pages are released."""


def packed(weight: Tensor, rows: int) -> Tensor:
    """Return what to multiply *rows* rows with: a packed copy of *weight*, or *weight* itself.

    Only a frozen float32 weight that is mapped from a file and unchanged gets a packed copy,
    because its own memory can then be released: its values stay in the page cache, where an access
    to the weight (``state_dict``, a LoRA) finds them. So an encoder is never in memory twice. All
    layers with the same weight share the copy, which is freed with the weight. A later change of
    the weight is detected at the next product, which then uses the weight itself.
    """
    known = _packed.get(weight, 0)
    if isinstance(known, _Packed):
        if known.of.matches([weight]):
            return known.weight
        forget(weight)
        known = 0
    if rows > FEW_ROWS:
        return weight
    uses = _packed[weight] = known + 1
    if uses != PACK_AFTER or reorder_weight() is None:
        return weight
    with packing:
        return _pack(weight)


def forget(weight: Tensor) -> None:
    """Free the packed copy, if there is one."""
    _packed.pop(weight, None)


def _pack(weight: Tensor) -> Tensor:
    known = _packed.get(weight)
    if isinstance(known, _Packed):  # another thread was faster
        return known.weight
    if not _is_as_in_file(weight):
        return weight
    before = TensorFingerprint([weight])
    try:
        twin = reorder_weight()(weight.detach(), FEW_ROWS)
    except RuntimeError as error:  # no memory
        _say_once(f"Weights could not be packed for speed, so they are used as they are: {error}")
        return weight
    # Another thread may have loaded other values meanwhile.
    if not before.matches([weight]) or not _is_as_in_file(weight):
        return weight
    _give_back(weight)
    _packed[weight] = _Packed(twin, before)
    return twin  # type: ignore[no-any-return]


@cache
def _say_once(message: str) -> None:
    log.warning("%s", message)


def _is_as_in_file(weight: Tensor) -> bool:
    """Tell whether all memory of *weight* is in the page cache: mapped and never written to."""
    if not (is_plain(weight) and weight.dtype == torch.float32 and weight.is_contiguous()):
        return False
    first = weight.data_ptr() // _PAGE
    count = -(-(weight.data_ptr() + weight.nbytes) // _PAGE) - first
    try:
        if not _is_private_file(first * _PAGE, (first + count) * _PAGE):
            return False
        with _PAGEMAP.open("rb", buffering=0) as file:
            file.seek(8 * first)
            pages = memoryview(file.read(8 * count)).cast("Q")
    except OSError as error:
        log.debug("No weights are packed, since the kernel does not tell of pages: %s", error)
        return False
    return len(pages) == count and all(page & _OF_A_FILE or not page & _PRESENT for page in pages)


def _is_private_file(start: int, end: int) -> bool:
    """Tell whether these addresses are in one private mapping of a file."""
    for line in _MAPS.read_text().splitlines():
        span, permissions, _, _, inode = line.split(maxsplit=5)[:5]
        first, last = (int(address, 16) for address in span.split("-"))
        if first <= start < last:
            return end <= last and permissions.endswith("p") and inode != "0"
    return False


def _give_back(weight: Tensor) -> None:
    """Release the pages of a weight that ``_is_as_in_file``; an access maps them again."""
    first = -(-weight.data_ptr() // _PAGE) * _PAGE
    last = (weight.data_ptr() + weight.nbytes) // _PAGE * _PAGE
    if last > first:
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(mmap.MADV_DONTNEED)
        )
