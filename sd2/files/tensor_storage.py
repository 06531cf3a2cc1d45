"""Locates tensors in checkpoint files and memory-maps only those requested.

Mappings are copy-on-write: pages are read when touched, unchanged weights stay in the page cache
that all processes share, and a write never reaches the file.
"""

from __future__ import annotations

import mmap
import struct
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import UnreadableFileError

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

_ZIP_LOCAL_HEADER = struct.Struct("<4s5H3I2H")


@dataclass(frozen=True)
class Block:
    """A range of bytes in a file.

    With ``entry`` it is a zip entry, and ``start`` is where its local header begins: the data
    follows that header, whose length only it tells.
    """

    file: Path
    start: int
    size: int
    entry: str | None = None
    compressed: bool = False


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


def read_tensors(locations: Mapping[str, TensorLocation]) -> dict[str, torch.Tensor]:
    """Memory-map the tensors. Those that share a block in the file share memory."""
    if sys.byteorder != "little":
        raise UnreadableFileError(
            "Model files are little-endian; this big-endian machine cannot map them."
        )
    import torch

    for location in locations.values():
        if not hasattr(torch, _TORCH_DTYPES.get(location.dtype, "?")):
            raise UnreadableFileError(
                f"{location.block.file}: tensors of type {location.dtype} are not supported by "
                "the installed torch."
            )
    blocks = {(location.block, location.dtype) for location in locations.values()}
    flat: dict[tuple[Block, str], torch.Tensor] = {}
    for file in dict.fromkeys(block.file for block, _ in blocks):
        flat.update(_read_blocks(file, [pair for pair in blocks if pair[0].file == file]))
    result = {}
    for name, location in locations.items():
        base = flat[location.block, location.dtype]
        if 0 in location.shape:
            result[name] = base.new_empty(location.shape)
        else:
            result[name] = base.as_strided(location.shape, location.stride, location.offset)
    return result


def read_elements(location: TensorLocation, first: int, count: int) -> bytes | bytearray:
    """The bytes of *count* elements from index *first*, without torch or a mapping."""
    size = itemsize(location.dtype)
    total = prod(location.shape)
    data: bytes | bytearray
    if size is None or not location.contiguous:
        return b""
    first = min(first, total)
    count = min(count, total - first)
    begin = (location.offset + first) * size
    try:
        with location.block.file.open("rb") as file:
            if location.block.compressed:
                data = _decompress(file, location.block, begin, count * size)
            else:
                file.seek(_data_start(file, location.block) + begin)
                data = file.read(count * size)
    except OSError as error:
        raise UnreadableFileError(f"{location.block.file}: cannot be read: {error}") from error
    if len(data) != count * size:
        raise _changed(location.block.file)
    return data


def _read_blocks(
    path: Path, requested: Sequence[tuple[Block, str]]
) -> dict[tuple[Block, str], torch.Tensor]:
    result: dict[tuple[Block, str], torch.Tensor] = {}
    try:
        with path.open("rb") as file:
            length = path.stat().st_size
            spans: dict[Block, tuple[int, int]] = {}
            for block, dtype in requested:
                if block.compressed:
                    result[block, dtype] = _tensor(
                        _decompress(file, block, 0, block.size), dtype, 0, block.size
                    )
                elif block not in spans:
                    start = _data_start(file, block)
                    if start + block.size > length:
                        raise _changed(path)
                    spans[block] = (start, start + block.size)
            mappings = _map(file, spans.values())
    except (OSError, ValueError) as error:
        raise UnreadableFileError(f"{path}: cannot be read: {error}") from error
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
    if block.entry is None:
        return block.start
    file.seek(block.start)
    header = file.read(_ZIP_LOCAL_HEADER.size)
    if len(header) != _ZIP_LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise _changed(block.file)
    *_, name_length, extra_length = _ZIP_LOCAL_HEADER.unpack(header)
    if file.read(name_length) not in (block.entry.encode(), block.entry.encode("cp437", "ignore")):
        raise UnreadableFileError(
            f"{block.file}: is damaged: the zip directory's {block.entry[:100]!r} has another name "
            "where its data begins."
        )
    return block.start + len(header) + int(name_length) + int(extra_length)


def _decompress(file: BinaryIO, block: Block, begin: int, size: int) -> bytearray:
    """Bytes of a compressed entry, read as a stream: nothing before or after them is kept."""
    assert block.entry is not None
    data = bytearray()
    try:
        with zipfile.ZipFile(file) as archive, archive.open(block.entry) as entry:
            entry.seek(begin)
            while len(data) < size and (part := entry.read(min(size - len(data), 1 << 20))):
                data += part
    except (zipfile.BadZipFile, LookupError, RuntimeError, UnicodeError, EOFError) as error:
        raise UnreadableFileError(f"{block.file}: entry {block.entry!r}: {error}") from error
    except Exception as error:  # zlib.error and its like have no common base
        if type(error).__module__ not in {"zlib", "_bz2", "_lzma", "lzma"}:
            raise
        raise UnreadableFileError(f"{block.file}: entry {block.entry!r}: {error}") from error
    if len(data) != size:
        raise _changed(block.file)
    return data


def _changed(path: Path) -> UnreadableFileError:
    return UnreadableFileError(f"{path}: is damaged, or has changed since it was opened.")
