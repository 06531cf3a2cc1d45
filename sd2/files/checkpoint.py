"""Opens a model file, a set of shards or a diffusers folder: reads headers, and tensors on request.

The format is recognised by the first bytes, never by the extension. Opening imports neither torch
nor numpy.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UnreadableFileError, and_more
from .file_stamp import FileStamp
from .limits import MAX_ITEMS, MAX_TENSOR_NAME
from .resolve import resolve_files
from .safetensors_header import looks_like_safetensors, read_safetensors_header
from .tensor_storage import TensorLocation, check_crcs, read_elements, read_tensors
from .torch_file import LEGACY_START, open_pickle
from .unpickler import ModuleState, TensorRef

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorInfo:
    """Shape and type of a tensor. ``dtype`` is safetensors' name: "F32", "F16", "BF16"…"""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Checkpoint:
    """An opened file, sharded set or folder, of which only headers have been read."""

    path: Path
    """As the user gave it."""
    files: tuple[Path, ...]
    """All files that are read."""
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What a user should know: the file chosen in a folder, the objects of a pickle left out."""
    locations: Mapping[str, TensorLocation] = field(default_factory=dict, repr=False)
    """Of each tensor in its file; empty for a checkpoint that is shapes alone."""
    stamps: tuple[FileStamp, ...] = field(default=(), repr=False)
    """Of all files, before they were read."""

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, memory-mapped: read when touched, shared until written.

        Call ``check_mapped`` before they are touched much later, and after all were used: the file
        may be overwritten. KeyError for an unknown name, UnreadableFileError for a changed file.
        """
        return read_tensors({name: self.locations[name] for name in names})

    def read_unmapped(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, in memory, whatever becomes of the file later."""
        return read_tensors({name: self.locations[name] for name in names}, mapped=False)

    def check_mapped(self) -> None:
        """Raise UnreadableFileError if a file that tensors are mapped from was overwritten."""
        for stamp in self.stamps:
            stamp.check_mapped()

    def check_crcs(self, names: Iterable[str]) -> None:
        """Read the named tensors; raise UnreadableFileError if a zip file's checksum is wrong."""
        check_crcs(self.locations[name].block for name in names)

    def read_values(self, name: str, first: int = 0, count: int = 1 << 62) -> tuple[float, ...]:
        """*count* values of a float tensor from index *first*, in memory order, without torch.

        Empty for another type, and for a tensor that is not contiguous.
        """
        location = self.locations.get(name)
        if location is None or location.dtype not in ("F64", "F32", "F16", "BF16"):
            return ()
        data = read_elements(location, first, count)
        if location.dtype == "BF16":  # the upper half of a float32
            halves = struct.unpack(f"<{len(data) // 2}H", data)
            data = struct.pack(f"<{len(halves)}I", *(half << 16 for half in halves))
        code = {"F64": "d", "F16": "e"}.get(location.dtype, "f")
        return struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)

    def are_zeros(self, name: str, first: int, count: int) -> bool:
        """Whether *count* elements of a tensor from index *first* are bytes of zero in its file.

        False where that costs more than reading them: for a compressed tensor and for one that is
        not contiguous.
        """
        location = self.locations.get(name)
        if location is None or location.block.compressed:
            return False
        data = read_elements(location, first, count)
        return bool(data) and not any(data)

    def header_digest(self) -> str:
        """Return a SHA-256 over names, shapes and dtypes of all tensors, and the metadata."""
        shapes = {name: [info.dtype, info.shape] for name, info in self.tensors.items()}
        header = json.dumps([shapes, dict(self.metadata)], sort_keys=True)
        return hashlib.sha256(header.encode()).hexdigest()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads the headers of a model file, of all shards of a set, or of a diffusers folder.

    Raises UnreadableFileError with the reason, UnsafeFileError for a pickle that refers to code.
    """
    named = Path(path)
    try:
        files, notes = resolve_files(named)
        stamps = tuple(FileStamp.of(file) for file in files)
        locations: dict[str, TensorLocation] = {}
        metadata: dict[str, str] = {}
        for file in files:
            file_locations, file_metadata, file_notes = _open_file(file)
            locations.update(file_locations)
            metadata.update(file_metadata)
            notes += tuple(note for note in file_notes if note not in notes)
    except OSError as error:
        raise UnreadableFileError(f"{named}: cannot be read: {error.strerror or error}") from error
    tensors = {
        name: TensorInfo(location.shape, location.dtype) for name, location in locations.items()
    }
    return Checkpoint(named, files, tensors, metadata, notes, locations, stamps)


_NOT_MODELS = (
    (b"version https://git-lfs", "a git-lfs pointer of a few lines, not the model itself. "
     "Fetch it with 'git lfs pull', or download the file in a browser"),
    (b"<", "a web page, not a model: the download led to a login or error page. Download it again"),
    (b"{", "JSON text, not a model"),
    (b"GGUF", "a GGUF file, which is not supported. Choose a .safetensors or PyTorch file"),
    (b"\x89HDF", "an HDF5 file, which is not supported. Choose a .safetensors or PyTorch file"),
    (b"\x93NUMPY", "a NumPy array, which is not supported. Choose a .safetensors or PyTorch file"),
    (b"\x89PNG", "an image, not a model"),
    (b"\xff\xd8\xff", "an image, not a model"),
    (b"\x1f\x8b", "a compressed archive. Unpack it first"),
    (b"7z\xbc\xaf", "a compressed archive. Unpack it first"),
    (b"Rar!", "a compressed archive. Unpack it first"),
    (b"\x80", "a pickle, but not one that torch.save wrote"),
)  # fmt: skip


_Opened = tuple[Mapping[str, TensorLocation], Mapping[str, str], tuple[str, ...]]
"""Locations of the tensors, metadata, notes."""


def fingerprint(path: str | os.PathLike[str]) -> list[list[Any]]:
    """Name, modification time (ns) and size of each file that *path* stands for."""
    files, _ = resolve_files(Path(path))
    return [[str(file), file.stat().st_mtime_ns, file.stat().st_size] for file in files]


def _open_file(path: Path) -> _Opened:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableFileError(f"{path}: not a file.")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise UnreadableFileError(f"{path}: the file is empty. Download it again.")
    if looks_like_safetensors(start):
        locations, metadata = read_safetensors_header(path)
        return locations, metadata, ()
    if start.startswith((b"PK\x03\x04", LEGACY_START)):
        return _open_pickle(path)
    if not start.strip(b"\0"):
        raise UnreadableFileError(
            f"{path}: begins with nothing but zeros: an unfinished download. Download it again."
        )
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    what = next((what for magic, what in _NOT_MODELS if text.startswith(magic)), None)
    if what is None and start[257:262] == b"ustar":
        what = "a tar archive (PyTorch before 0.1.10 saved so). Unpack it, or save it again"
    if what is None and len(start) <= 16:
        what = f"only {len(start)} bytes long, truncated. Download it again"
    raise UnreadableFileError(
        f"{path}: {what or 'neither a safetensors file nor one that torch.save wrote'}. "
        f"It begins with {_shown(start)}."
    )


def _shown(start: bytes) -> str:
    """Show the first bytes of a file: as text if they are, else in hexadecimal."""
    words = " ".join(start[:32].decode("ascii", errors="replace").split())
    if words.isascii() and words.isprintable():
        return f'"{words[:16].rstrip()}"'
    return f"the bytes {start[:16].hex(' ')}"


def _open_pickle(path: Path) -> _Opened:
    pickled = open_pickle(path)
    if isinstance(pickled.root, TensorRef):
        raise UnreadableFileError(
            f"{path}: a single tensor of shape {list(pickled.root.shape)}, not a model. "
            "If it is a textual inversion, put it into the embeddings folder."
        )
    if isinstance(pickled.root, ModuleState):
        raise UnreadableFileError(
            f"{path}: holds a pickled object ({pickled.root.name}), not a dict of weights by name. "
            "Choose a file with a state dict."
        )
    if not isinstance(pickled.root, dict):
        raise UnreadableFileError(
            f"{path}: holds a {type(pickled.root).__name__}, not a dict of weights by name"
            f"{_whole_object(pickled.opaque_names)}. Choose a file with a state dict."
        )
    locations = {
        name: pickled.locate(reference)
        for name, reference in _flatten(_unwrap(pickled.root), path).items()
    }
    notes: tuple[str, ...] = ()
    if pickled.opaque_names:
        names = ", ".join(pickled.opaque_names)
        notes = (f"objects of other programs in the pickle, left out and never run: {names}",)
    return locations, {}, notes


def _whole_object(opaque_names: tuple[str, ...]) -> str:
    return f" (a pickled object: {and_more(opaque_names, 3)})" if opaque_names else ""


_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


def _unwrap(root: dict[str, Any]) -> dict[str, Any]:
    """The dict of tensors inside the dicts that trainers wrap around it."""
    for _ in range(4):
        if any(isinstance(value, TensorRef) for value in root.values()):
            return root
        inner = next(
            (root[key] for key in _WRAPPERS if isinstance(root.get(key), dict) and root[key]), None
        )
        if inner is None and len(root) == 1:
            inner = next(iter(root.values()))
        if not isinstance(inner, dict):
            return root
        root = inner
    return root


def _flatten(root: Mapping[Any, Any], path: Path) -> dict[str, TensorRef]:
    """Tensors of nested dicts under dotted names; everything else is left out."""
    result: dict[str, TensorRef] = {}
    seen = 0

    def add(table: Mapping[Any, Any], prefix: str, depth: int) -> None:
        nonlocal seen
        # A dict that is used many times, or in itself, counts each time.
        seen += len(table)
        if seen > MAX_ITEMS:
            raise UnreadableFileError(
                f"{path}: its pickle has more than {MAX_ITEMS:,} values, which no model has. "
                "Choose another file."
            )
        for key, value in table.items():
            if not isinstance(key, str):
                continue
            if isinstance(value, TensorRef):
                if len(prefix) + len(key) > MAX_TENSOR_NAME:
                    raise UnreadableFileError(
                        f"{path}: a tensor's name has more than {MAX_TENSOR_NAME:,} characters. It "
                        f"begins with {(prefix + key)[:100]!r}. Choose another file."
                    )
                result[prefix + key] = value
            elif isinstance(value, dict) and depth < 3:
                add(value, f"{prefix}{key}.", depth + 1)

    add(root, "", 0)
    return result
