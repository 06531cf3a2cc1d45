"""Reads files of ``torch.save`` as data: the zip format (since 1.6) and the older stream format.

Nothing in a file is run (see ``unpickler``), and tensors are only located, not read.
"""

from __future__ import annotations

import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import UnreadableFileError, UnsafeFileError, and_more
from .limits import MAX_DEPTH, MAX_LOADED_BYTES, MAX_PICKLE_BYTES, MAX_REPEATED_BYTES
from .tensor_storage import Block, TensorLocation, itemsize, read_tensors
from .unpickler import DamagedPickleError, OpaqueObject, SafeUnpickler, StorageRef, TensorRef
from .zip_directory import check_zip_directory

# The first object of the stream format (torch/serialization.py), pickled with protocol 2.
LEGACY_START = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_LEGACY_PROTOCOL = 1001


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
    tensors = {key: tensor.clone() for key, tensor in read_tensors(locations).items()}
    return _rebuild(file.root, tensors, {}, 0)


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
    try:
        with path.open("rb") as file:
            check_zip_directory(path, file)
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickles = [name for name in entries if name.split("/", 1)[-1] == "data.pkl"]
            if any(name.split("/", 1)[-1] == "constants.pkl" for name in entries):
                raise UnreadableFileError(
                    f"{path}: a TorchScript program, not weights. Choose a file with a state dict."
                )
            if len(pickles) != 1:
                first = and_more([repr(name) for name in entries], 3)
                raise UnreadableFileError(
                    f"{path}: a zip archive that torch.save did not write (no data.pkl; it begins "
                    f"with {first or 'nothing'}). If a model is packed in it, unpack it first."
                )
            root = pickles[0].removesuffix("data.pkl")
            pickled = _read_entry(archive, entries[pickles[0]])
            order = b"little"
            if (byteorder := entries.get(f"{root}byteorder")) is not None:
                order = _read_entry(archive, byteorder)
    except zipfile.BadZipFile as error:
        raise UnreadableFileError(
            f"{path}: is truncated or damaged: it begins as a PyTorch zip file, but {error}. "
            "Download it again."
        ) from error
    except Exception as error:
        # zlib, lzma, encryption, unknown compression: their errors have no common base
        if isinstance(error, OSError | UnreadableFileError):
            raise
        raise UnreadableFileError(f"{path}: is damaged: {type(error).__name__}: {error}") from error
    if order != b"little":
        raise UnreadableFileError(
            f"{path}: was saved on a big-endian machine; save it again as .safetensors there."
        )
    unpickler = SafeUnpickler(pickled)
    value = unpickler.run()
    length = path.stat().st_size

    def find(storage: StorageRef) -> Block:
        name = f"{root}data/{storage.key}"
        entry = entries.get(name)
        needed = (storage.offset + storage.numel) * (itemsize(storage.dtype or "U8") or 1)
        if entry is None or entry.file_size < needed or entry.flag_bits & 1:  # encrypted
            raise UnreadableFileError(
                f"{path}: is damaged: {needed:,} bytes of tensor data {name!r} are missing."
            )
        compressed = entry.compress_type != zipfile.ZIP_STORED
        size = entry.compress_size if compressed else entry.file_size
        if entry.header_offset + size > length:
            raise UnreadableFileError(f"{path}: is truncated: {name!r} is beyond its end.")
        return Block(path, entry.header_offset, entry.file_size, name, compressed)

    return PickledFile(path, value, tuple(unpickler.opaque_names), find)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as stream:
        data = stream.read(MAX_PICKLE_BYTES + 1)
    if len(data) > MAX_PICKLE_BYTES:
        raise DamagedPickleError(f"{entry.filename} has more than {MAX_PICKLE_BYTES:,} bytes")
    return data


def _open_stream(path: Path) -> PickledFile:
    """magic, protocol, system, value, storage keys: five pickles, then the data of each storage."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
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
        protocol, system, root, keys = values
        if protocol != _LEGACY_PROTOCOL or not isinstance(keys, list):
            raise DamagedPickleError(f"it does not have torch's protocol {_LEGACY_PROTOCOL}")
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise UnreadableFileError(
                f"{path}: was saved on a big-endian machine; save it again as .safetensors there."
            )
        blocks = _stream_blocks(path, data, position, keys, dtypes)

    def find(storage: StorageRef) -> Block:
        block = blocks.get(storage.key)
        if block is None:
            raise UnreadableFileError(f"{path}: is damaged: storage {storage.key!r} is missing.")
        return block

    return PickledFile(path, root, tuple(opaque), find)


def _stream_blocks(
    path: Path, data: mmap.mmap, position: int, keys: list[Any], dtypes: Mapping[str, str]
) -> dict[str, Block]:
    blocks: dict[str, Block] = {}
    for key in keys:
        if not isinstance(key, str) or key not in dtypes or key in blocks:
            raise DamagedPickleError("its list of storages does not match its tensors")
        size = itemsize(dtypes[key]) or 1
        counted = data[position : position + 8]
        position += 8
        count = struct.unpack("<q", counted)[0] if len(counted) == 8 else 0
        end = position + count * size
        if len(counted) < 8 or count < 0 or end > len(data):
            raise UnreadableFileError(
                f"{path}: is truncated: its tensors need at least {max(end, position):,} bytes, "
                f"the file has {len(data):,}. Download it again."
            )
        blocks[key] = Block(path, position, count * size)
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
