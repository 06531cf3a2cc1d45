"""Reads files of ``torch.save`` as data: the zip format (since 1.6) and the older stream format.

Nothing in a file is run (see ``unpickler``), and tensors are only located, not read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UnreadableFileError, UnsafeFileError, and_more
from .file_stamp import FileStamp
from .limits import MAX_DEPTH, MAX_LOADED_BYTES, MAX_PICKLE_BYTES, MAX_REPEATED_BYTES
from .tensor_storage import Block, TensorLocation, copy_tensors, damaged_zip, itemsize
from .unpickler import DamagedPickleError, OpaqueObject, SafeUnpickler, StorageRef, TensorRef
from .zip_member import DamagedZipError, ZipMember, check_readable, zip_members

# The first object of the stream format (torch/serialization.py), pickled with protocol 2.
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LEGACY_PROTOCOL = 1001

_FIRST_BYTES = 1 << 20
"""Of the stream format, more than the pickles of a checkpoint have."""


@dataclass(frozen=True)
class PickledFile:
    """A file's pickled value, with a TensorRef for each tensor, and where their storages are."""

    path: Path
    root: object
    opaque_names: tuple[str, ...]
    """Objects of other programs, left out and never run."""
    _find_block: Callable[[StorageRef], Block]

    def locate(self, tensor: TensorRef) -> TensorLocation:
        """Where *tensor* is. UnreadableFileError if that is outside the file or its storage."""
        block = self._find_block(tensor.storage)
        size = itemsize(tensor.dtype) or 1
        offset = tensor.offset + tensor.storage.offset
        steps = zip(tensor.shape, tensor.stride, strict=True)
        end = (offset + sum((count - 1) * step for count, step in steps) + 1) * size
        # Expanded tensors repeat their storage and are legal; terabytes made of one value are not.
        expanded = prod(tensor.shape) * size > max(block.size * 64, MAX_LOADED_BYTES)
        if 0 not in tensor.shape and (end > block.size or expanded):
            raise UnreadableFileError(
                f"{self.path}: is damaged: a tensor of shape {list(tensor.shape)} does not fit "
                f"into its storage of {block.size:,} bytes."
            )
        return TensorLocation(block, tensor.dtype, tensor.shape, tensor.stride, offset)


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """The value that ``torch.save`` wrote, with tensors (copies); for small files.

    Dicts keep their text keys only; sets come as lists; objects that are neither tensors nor plain
    values come as ``OpaqueObject``. Raises UnsafeFileError or UnreadableFileError.
    """
    file = open_pickle(Path(path))
    references = {str(id(found)): found for found in _tensors(file.root, 0, set())}
    locations = {key: file.locate(found) for key, found in references.items()}
    size = sum(
        prod(location.shape) * (itemsize(location.dtype) or 1) for location in locations.values()
    )
    size = max(
        size, sum({location.block: location.block.size for location in locations.values()}.values())
    )
    limit = min(MAX_LOADED_BYTES, os.path.getsize(path) + MAX_REPEATED_BYTES)
    if size > limit:
        raise UnreadableFileError(
            f"{path}: holds {size:,} bytes of tensors; the limit here is {limit:,}."
        )
    return _rebuild(file.root, copy_tensors(locations), {}, 0)


def open_pickle(path: Path) -> PickledFile:
    """Reads the pickle of *path*, not its tensors. UnsafeFileError or UnreadableFileError."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LEGACY_START))
        if start.startswith(b"PK"):
            return _open_zip(path)
        if start == LEGACY_START:
            return _open_stream(path)
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path}: {error}") from None
    except DamagedPickleError as error:
        raise UnreadableFileError(f"{path}: its pickle is damaged: {error}.") from error
    except OSError as error:
        raise UnreadableFileError(f"{path}: cannot be read: {error}") from error
    raise UnreadableFileError(f"{path}: not a file that torch.save wrote.")


def _open_zip(path: Path) -> PickledFile:
    with path.open("rb") as file:
        stamp = FileStamp.of(path, file)
        members = _members(path, file)
        pickles = [name for name in members if name.split("/", 1)[-1] == "data.pkl"]
        if any(name.split("/", 1)[-1] == "constants.pkl" for name in members):
            raise UnreadableFileError(
                f"{path}: a TorchScript program, not weights. Choose a file with a state dict."
            )
        if len(pickles) != 1:
            first = and_more([repr(name) for name in members], 3)
            raise UnreadableFileError(
                f"{path}: a zip archive that torch.save did not write (no data.pkl; it begins "
                f"with {first or 'nothing'}). If a model is packed in it, unpack it first."
            )
        root = pickles[0].removesuffix("data.pkl")
        try:
            pickled = _read_member(file, members[pickles[0]])
            order = b"little"
            if (byteorder := members.get(f"{root}byteorder")) is not None:
                order = _read_member(file, byteorder)
        except DamagedZipError as error:
            raise damaged_zip(path, error) from error
    if order != b"little":
        raise UnreadableFileError(
            f"{path}: was saved on a big-endian machine; save it again as .safetensors there."
        )
    unpickler = SafeUnpickler(pickled)
    value = unpickler.run()

    def find(storage: StorageRef) -> Block:
        name = f"{root}data/{storage.key}"
        member = members.get(name)
        needed = (storage.offset + storage.numel) * (itemsize(storage.dtype or "U8") or 1)
        if member is None or member.size < needed:
            raise UnreadableFileError(
                f"{path}: is damaged: {needed:,} bytes of tensor data {name!r} are missing."
            )
        try:
            check_readable(member)
        except DamagedZipError as error:
            raise damaged_zip(path, error) from error
        if member.header_offset + member.stored_size > stamp.size:
            raise UnreadableFileError(f"{path}: is truncated: {name!r} is beyond its end.")
        return Block(stamp, member.header_offset, member.size, member)

    return PickledFile(path, value, tuple(unpickler.opaque_names), find)


def _members(path: Path, file: BinaryIO) -> dict[str, ZipMember]:
    try:
        return zip_members(file)
    except DamagedZipError as error:
        raise damaged_zip(path, error) from error
    except OSError:
        raise
    except Exception as error:  # a directory can be damaged in more ways than zipfile expects
        raise UnreadableFileError(
            f"{path}: is truncated or damaged: it begins as a PyTorch zip file, but {error}. "
            "Download it again."
        ) from error


def _read_member(file: BinaryIO, member: ZipMember) -> bytes:
    check_readable(member)
    if member.size > MAX_PICKLE_BYTES:
        raise DamagedPickleError(f"{member.name} has more than {MAX_PICKLE_BYTES:,} bytes")
    return member.contents(file)


def _open_stream(path: Path) -> PickledFile:
    """magic, protocol, system, value, storage keys: five pickles, then the data of each storage.

    Read, not mapped: a file that is truncated meanwhile is only a damaged one.
    """
    with path.open("rb") as file:
        stamp = FileStamp.of(path, file)
        data = b""
        for limit in (_FIRST_BYTES, MAX_PICKLE_BYTES):
            data += file.read(limit - len(data))
            try:
                values, opaque, dtypes, position = _stream_pickles(data)
                break
            except DamagedPickleError:
                if len(data) < limit or limit == MAX_PICKLE_BYTES:
                    raise
        protocol, system, root, keys = values
        if protocol != _LEGACY_PROTOCOL or not isinstance(keys, list):
            raise DamagedPickleError(f"it does not have torch's protocol {_LEGACY_PROTOCOL}")
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise UnreadableFileError(
                f"{path}: was saved on a big-endian machine; save it again as .safetensors there."
            )
        blocks = _stream_blocks(stamp, file, position, keys, dtypes)

    def find(storage: StorageRef) -> Block:
        block = blocks.get(storage.key)
        if block is None:
            raise UnreadableFileError(f"{path}: is damaged: storage {storage.key!r} is missing.")
        return block

    return PickledFile(path, root, tuple(opaque), find)


def _stream_pickles(data: bytes) -> tuple[list[Any], dict[str, None], dict[str, str], int]:
    """Four values, the names of opaque objects, the types of storages, and where they end."""
    position = len(LEGACY_START)
    values = []
    opaque: dict[str, None] = {}
    dtypes: dict[str, str] = {}
    for _ in range(4):
        unpickler = SafeUnpickler(data, position)
        values.append(unpickler.run())
        position = unpickler.position
        opaque.update(unpickler.opaque_names)
        dtypes.update(unpickler.storage_dtypes)
    return values, opaque, dtypes, position


def _stream_blocks(
    stamp: FileStamp, file: BinaryIO, position: int, keys: list[Any], dtypes: Mapping[str, str]
) -> dict[str, Block]:
    blocks: dict[str, Block] = {}
    for key in keys:
        if not isinstance(key, str) or key not in dtypes or key in blocks:
            raise DamagedPickleError("its list of storages does not match its tensors")
        size = itemsize(dtypes[key]) or 1
        file.seek(position)
        counted = file.read(8)
        position += 8
        count = struct.unpack("<q", counted)[0] if len(counted) == 8 else 0
        end = position + count * size
        if len(counted) < 8 or count < 0 or end > stamp.size:
            raise UnreadableFileError(
                f"{stamp.path}: is truncated: its tensors need at least "
                f"{max(end, position):,} bytes, the file has {stamp.size:,}. Download it again."
            )
        blocks[key] = Block(stamp, position, count * size)
        position = end
    return blocks


def _tensors(value: object, depth: int, seen: set[int]) -> Iterator[TensorRef]:
    if isinstance(value, TensorRef):
        yield value
    elif isinstance(value, dict | list | tuple) and depth < MAX_DEPTH and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, depth + 1, seen)


def _rebuild(
    value: object, tensors: Mapping[str, object], done: dict[int, object], depth: int
) -> object:
    if depth > MAX_DEPTH:
        return OpaqueObject("nested too deeply")
    if isinstance(value, TensorRef):
        return tensors[str(id(value))]
    if id(value) in done or not isinstance(value, dict | list | tuple):
        return done.get(id(value), value)
    if isinstance(value, dict):
        rebuilt: dict[str, object] = {}
        done[id(value)] = rebuilt
        for key, item in value.items():
            if isinstance(key, str):
                rebuilt[key] = _rebuild(item, tensors, done, depth + 1)
        return rebuilt
    items: list[object] = []
    done[id(value)] = items
    items.extend(_rebuild(item, tensors, done, depth + 1) for item in value)
    if isinstance(value, tuple):
        done[id(value)] = tuple(items)
    return done[id(value)]
