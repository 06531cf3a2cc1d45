"""Locates tensors in checkpoint files and memory-maps only those requested.

Mappings are copy-on-write: pages are read when touched, unchanged weights stay in the page cache
that all processes share, and a write never reaches the file.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import UnreadableFileError
from .file_stamp import FileStamp
from .zip_member import DamagedZipError, ZipMember

if TYPE_CHECKING:
    import torch

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "C128": 128,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits per element, under safetensors' dtype names (C128 is ours: only pickles have it)."""

_TORCH_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64",
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "C128": "complex128",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip

DTYPE_NAMES = {torch_name: name for name, torch_name in _TORCH_DTYPES.items()}
"""torch's dtype names (without "torch.") to safetensors' names."""

# Tensors further apart than this get separate mappings: a private mapping counts fully against
# the commit limit (Windows, Linux with little memory), whether it is touched or not.
_MAPPING_GAP = 16 << 20


@dataclass(frozen=True)
class Block:
    """A range of bytes in a file.

    With ``member`` these are the contents of a member of a zip file, and ``start`` is where its
    header begins: the data follows that header, whose length only it tells.
    """

    file: FileStamp
    start: int
    size: int
    member: ZipMember | None = None

    @property
    def compressed(self) -> bool:
        return self.member is not None and self.member.compressed


@dataclass(frozen=True)
class TensorLocation:
    """A tensor in a block. ``offset`` and ``stride`` count elements."""

    block: Block
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    @property
    def contiguous(self) -> bool:
        return self.stride == contiguous_stride(self.shape)


def contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    """The stride, in elements, of a contiguous tensor of *shape*."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def itemsize(dtype: str) -> int | None:
    """Bytes per element; None for a type that is unknown or smaller than a byte."""
    bits = DTYPE_BITS.get(dtype, 0)
    return bits // 8 if bits and bits % 8 == 0 else None


def read_tensors(
    locations: Mapping[str, TensorLocation], *, mapped: bool = True
) -> dict[str, torch.Tensor]:
    """Memory-map the tensors, or read them. Those that share a block in the file share memory."""
    if sys.byteorder != "little":
        raise UnreadableFileError(
            "Model files are little-endian; this big-endian machine cannot map them."
        )
    import torch

    for location in locations.values():
        if not hasattr(torch, _TORCH_DTYPES.get(location.dtype, "?")):
            raise UnreadableFileError(
                f"{location.block.file.path}: tensors of type {location.dtype} are not supported "
                "by the installed torch."
            )
    blocks = {(location.block, location.dtype) for location in locations.values()}
    flat: dict[tuple[Block, str], torch.Tensor] = {}
    for file in dict.fromkeys(block.file for block, _ in blocks):
        requested = [pair for pair in blocks if pair[0].file == file]
        flat.update(_read_blocks(file, requested, mapped=mapped))
    result = {}
    for name, location in locations.items():
        base = flat[location.block, location.dtype]
        if 0 in location.shape:
            result[name] = base.new_empty(location.shape)
        else:
            result[name] = base.as_strided(location.shape, location.stride, location.offset)
    return result


def copy_tensors(locations: Mapping[str, TensorLocation]) -> dict[str, torch.Tensor]:
    """Read the tensors, each into memory of its own."""
    tensors = read_tensors(locations, mapped=False)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def read_elements(location: TensorLocation, first: int, count: int) -> bytes | bytearray:
    """The bytes of *count* elements from index *first*, without torch or a mapping."""
    size = itemsize(location.dtype)
    total = prod(location.shape)
    if size is None or not location.contiguous:
        return b""
    first = min(first, total)
    count = min(count, total - first)
    begin = (location.offset + first) * size
    block = location.block
    with _opened(block.file) as file:
        if block.member is not None and block.compressed:
            data: bytes | bytearray = block.member.read(file, begin, count * size)
        else:
            file.seek(_data_start(file, block) + begin)
            data = file.read(count * size)
    if len(data) != count * size:
        raise _cut(block.file.path)
    return data


def check_crcs(blocks: Iterable[Block]) -> None:
    """Read members of zip files, and raise UnreadableFileError if a checksum is wrong."""
    for block in dict.fromkeys(blocks):
        if block.member is not None:
            with _opened(block.file) as file:
                block.member.check_crc(file)


@contextlib.contextmanager
def _opened(stamp: FileStamp) -> Iterator[BinaryIO]:
    """Open a file that is unchanged; what is wrong with it comes as UnreadableFileError."""
    try:
        with stamp.open() as file:
            yield file
    except DamagedZipError as error:
        raise damaged_zip(stamp.path, error) from error
    except (OSError, ValueError) as error:  # mmap's errors are both
        raise UnreadableFileError(f"{stamp.path}: cannot be read: {error}") from error


def _read_blocks(
    stamp: FileStamp, requested: Sequence[tuple[Block, str]], *, mapped: bool
) -> dict[tuple[Block, str], torch.Tensor]:
    result: dict[tuple[Block, str], torch.Tensor] = {}
    spans: dict[Block, tuple[int, int]] = {}
    with _opened(stamp) as file:
        for block, dtype in requested:
            if block.member is not None and block.compressed:
                data = block.member.read(file, 0, block.size)
                if len(data) != block.size:
                    raise _cut(stamp.path)
                result[block, dtype] = _tensor(data, dtype, 0, block.size)
            elif block not in spans:
                start = _data_start(file, block)
                if start + block.size > stamp.size:
                    raise _cut(stamp.path)
                spans[block] = (start, start + block.size)
        mappings = (_map if mapped else _read)(file, spans.values())
    for block, dtype in requested:
        if block in spans:
            start, end = spans[block]
            mapping, origin = next(
                (mapped, origin)
                for (first, last), (mapped, origin) in mappings.items()
                if first <= start and end <= last
            )
            result[block, dtype] = _tensor(mapping, dtype, start - origin, block.size)
    return result


def _map(
    file: BinaryIO, spans: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], tuple[mmap.mmap | bytearray, int]]:
    """Mappings that cover all *spans*, each with its offset in the file."""
    runs: list[list[int]] = []
    for start, end in sorted(spans):
        if runs and start - runs[-1][1] <= _MAPPING_GAP:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([start, end])
    mappings: dict[tuple[int, int], tuple[mmap.mmap | bytearray, int]] = {}
    for start, end in runs:
        origin = start - start % mmap.ALLOCATIONGRANULARITY
        mappings[start, end] = (
            mmap.mmap(file.fileno(), end - origin, access=mmap.ACCESS_COPY, offset=origin)
            if end > start
            else bytearray(),
            origin if end > start else start,
        )
    return mappings


def _read(
    file: BinaryIO, spans: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], tuple[mmap.mmap | bytearray, int]]:
    """The same, in memory."""
    read: dict[tuple[int, int], tuple[mmap.mmap | bytearray, int]] = {}
    for start, end in set(spans):
        data = bytearray(end - start)
        file.seek(start)
        if file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise ValueError("it ends too early")
        read[start, end] = data, start
    return read


def _tensor(buffer: mmap.mmap | bytearray, dtype: str, start: int, size: int) -> torch.Tensor:
    import torch

    torch_dtype: torch.dtype = getattr(torch, _TORCH_DTYPES[dtype])
    element = torch_dtype.itemsize
    count = size // element
    if count == 0:
        return torch.empty(0, dtype=torch_dtype)
    if start % element:  # some headers have odd lengths; kernels may assume alignment
        buffer, start = bytearray(buffer[start : start + size]), 0
    return torch.frombuffer(buffer, dtype=torch_dtype, count=count, offset=start)


def _data_start(file: BinaryIO, block: Block) -> int:
    return block.start if block.member is None else block.member.data_start(file)


def damaged_zip(path: Path, error: DamagedZipError) -> UnreadableFileError:
    """Say what is wrong with a zip file."""
    return UnreadableFileError(
        f"{path} is damaged: {error}. Download it again, or save it again with torch."
    )


def _cut(path: Path) -> UnreadableFileError:
    return UnreadableFileError(f"{path} is damaged: a tensor ends too early. Download it again.")
