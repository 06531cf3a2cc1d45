"""oneDNN's matrix product on the CPU, on weights as they are and on weights laid out for it.

Both are how torch.compile calls oneDNN, and no public names of torch's, so they must first prove
themselves on a small product.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 torch's own name for it

from .snapshots import TensorSnapshot

log = logging.getLogger("sd2_clip")

PACK_AFTER: float = 16
"""Products of few rows that a weight meets before it is packed; ``math.inf``: it never is.

Packing takes as long as two to six prompts do, and then saves a sixth of each.
"""

FEW_ROWS = 256
"""Up to three chunks. With more, packing gains a twentieth: not worth memory of one's own."""

_PAGE = mmap.PAGESIZE
_PAGEMAP = Path("/proc/self/pagemap")
# Of the 64 bits that the kernel gives for a page (kernel.org: admin-guide/mm/pagemap).
_PRESENT = 0b11 << 62  # in memory, or in swap
_OF_A_FILE = 1 << 61


@cache
def linear_pointwise() -> Any:
    """torch's fused product ``(x, w, b, activation, [], algorithm)``; None: not here.

    At a prompt's 77 rows it computes about 1.5 times as fast as ``F.linear`` (MKL).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None  # never measured there
    try:
        product = torch.ops.mkldnn._linear_pointwise
        _prove(product, lambda weight: weight)
    except (AttributeError, RuntimeError, AssertionError) as error:
        log.debug("This torch lacks oneDNN's fused product, so its plain one is used: %s", error)
        return None
    return product


@cache
def reorder_weight() -> Any:
    """torch's ``(w, rows) -> w`` in the layout that oneDNN would compute in; None: not here.

    It saves every product from laying *w* out again: a sixth of the time at 77 rows.
    """
    if linear_pointwise() is None or not _PAGEMAP.exists():
        return None
    try:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        _prove(linear_pointwise(), lambda weight: reorder(weight, FEW_ROWS))
    except (AttributeError, RuntimeError, AssertionError) as error:
        log.debug("This torch cannot lay weights out for oneDNN: %s", error)
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


class PackedWeight:
    """A weight's packed twin, once it has been used often enough to deserve one.

    Only a float32 weight that is mapped from a file and that nobody changed gets one, because its
    own memory can then be given back: the numbers stay in the page cache, and whoever touches the
    weight (``state_dict``, a LoRA) finds them there. So an encoder never lies in memory twice. A
    changed weight is seen at the next product, and is computed with as it is.
    """

    def __init__(self) -> None:
        self._uses = 0
        self._weight: Tensor | None = None
        self._snapshot: TensorSnapshot | None = None
        self._packed: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedWeight:
        # What is packed may be shared: whether it is that of a copy's weight, the copy asks.
        twin = PackedWeight()
        vars(twin).update(vars(self))
        return twin

    def __reduce__(self) -> Any:
        return PackedWeight, ()  # derived, and no tensor that could be written to a file

    def of(self, weight: Tensor, rows: int) -> Tensor:
        """What to multiply *rows* rows with: the packed twin, or *weight* itself."""
        if self._packed is not None:
            if weight is self._weight and self._snapshot is not None and self._snapshot.holds():
                return self._packed
            self._uses, self._weight, self._snapshot, self._packed = 0, None, None, None
        if rows > FEW_ROWS or weight.dtype != torch.float32:
            return weight
        self._uses += 1
        if self._uses != PACK_AFTER or reorder_weight() is None or not _is_as_in_file(weight):
            return weight
        self._packed = reorder_weight()(weight.detach(), FEW_ROWS)
        self._weight, self._snapshot = weight, TensorSnapshot([weight])
        _give_back(weight)
        return self._packed


def _is_as_in_file(weight: Tensor) -> bool:
    """Whether all memory that *weight* takes is the page cache's: mapped and never written to."""
    if not weight.is_contiguous():
        return False
    first = weight.data_ptr() // _PAGE
    count = -(-(weight.data_ptr() + weight.nbytes) // _PAGE) - first
    try:
        with _PAGEMAP.open("rb", buffering=0) as file:
            file.seek(8 * first)
            entries = file.read(8 * count)
    except OSError as error:
        log.debug("%s cannot be read, so no weights are packed: %s", _PAGEMAP, error)
        return False
    pages = memoryview(entries).cast("Q")
    return len(pages) == count and all(page & _OF_A_FILE or not page & _PRESENT for page in pages)


def _give_back(weight: Tensor) -> None:
    """Unmap the pages of a weight that ``_is_as_in_file``; touching it maps them again."""
    first = -(-weight.data_ptr() // _PAGE) * _PAGE
    last = (weight.data_ptr() + weight.nbytes) // _PAGE * _PAGE
    if last > first:
        # Whoever writes to a weight while it is being computed with has lost anyway.
        ctypes.CDLL(None).madvise(
            ctypes.c_void_p(first), ctypes.c_size_t(last - first), ctypes.c_int(mmap.MADV_DONTNEED)
        )
