"""Reads the header of a safetensors file: 8 bytes of length, then JSON; the data follows.

Without the safetensors library, so that inspecting a 5 GB file needs neither torch nor the data,
and so that errors describe the damage.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import UnreadableFileError
from .file_stamp import FileStamp
from .limits import MAX_HEADER_BYTES, MAX_HEADER_JSON_BYTES, MAX_TENSOR_NAME
from .tensor_storage import DTYPE_BITS, Block, TensorLocation, contiguous_stride


def looks_like_safetensors(start: bytes) -> bool:
    """Whether a file that begins with these bytes, 9 or more, can be a safetensors file."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES


def read_safetensors_header(path: Path) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    """Locations of the tensors, in file order, and the metadata. Raises UnreadableFileError."""
    try:
        with path.open("rb") as file:
            stamp = FileStamp.of(path, file)
            header_length = int.from_bytes(file.read(8), "little")
            text = file.read(min(header_length, MAX_HEADER_JSON_BYTES))
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read: {error}") from error
    length, data_start = stamp.size, 8 + header_length
    if data_start > length:
        raise _truncated(path, data_start, length)
    if header_length > MAX_HEADER_JSON_BYTES:
        raise _damaged(
            path,
            f"its header has {header_length:,} bytes, and a model's has at most "
            f"{MAX_HEADER_JSON_BYTES:,}",
        )
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is not JSON ({str(error)[:100]})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _damaged(path, "its metadata is not a JSON object")
    locations = {name: _location(stamp, data_start, name, entry) for name, entry in header.items()}
    end = max(
        (location.block.start + location.block.size for location in locations.values()), default=0
    )
    if end > length:
        raise _truncated(path, end, length)
    _check_apart(path, locations)
    return locations, {key: str(value) for key, value in metadata.items()}


def _location(stamp: FileStamp, data_start: int, name: str, entry: Any) -> TensorLocation:
    path = stamp.path
    if len(name) > MAX_TENSOR_NAME:
        raise _damaged(
            path,
            f"a tensor's name has {len(name):,} characters, at most {MAX_TENSOR_NAME:,} are"
            f" read: it begins with {name[:100]!r}",
        )
    if not _is_entry(entry):
        raise _damaged(path, f"its header entry for {name[:100]!r} is malformed")
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    bits = DTYPE_BITS.get(dtype)
    # A dtype that this version does not know is an error only if its tensor is requested.
    if bits is not None and prod(shape) * bits != (end - begin) * 8:
        raise _damaged(
            path,
            f"{name[:100]!r} is {dtype} {list(shape)[:8]} "
            f"but has {end - begin:,} bytes in the header",
        )
    block = Block(stamp, data_start + begin, end - begin)
    return TensorLocation(block, dtype, shape, contiguous_stride(shape))


def _check_apart(path: Path, locations: Mapping[str, TensorLocation]) -> None:
    """Refuse tensors that share bytes, as the format does: each costs what the file has of it."""
    end = 0
    for name, location in sorted(locations.items(), key=lambda item: item[1].block.start):
        block = location.block
        if block.size and block.start < end:
            raise _damaged(path, f"{name[:100]!r} overlaps with another tensor")
        end = max(end, block.start + block.size)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets):
        return False
    return len(shape) <= 64 and len(offsets) == 2 and offsets[0] <= offsets[1]


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _damaged(path: Path, why: str) -> UnreadableFileError:
    return UnreadableFileError(f"{path}: a damaged safetensors file: {why}. Download it again.")


def _truncated(path: Path, needed: int, length: int) -> UnreadableFileError:
    return UnreadableFileError(
        f"{path}: truncated: its header says {needed:,} bytes, the file has {length:,}. "
        "Download it again."
    )
