"""Saves conditioning as safetensors and loads it.

One entry is written as ComfyUI's Save Conditioning does, so that its Load Conditioning reads the
file: ``conditioning``, each tensor option under its name, a list of tensors as ``name.0``,
``name.1``, the other options as JSON in the metadata's ``conditioning_options``. Several entries,
and options that this format lacks, are ``<entry>.cond`` and ``<entry>.<option>``.

Either way the metadata's ``sd2_clip`` says which tensor is what, and holds all other values. Those
that JSON lacks are tagged: ``{"$tensor": name}``, ``{"$tuple": […]}``, ``{"$float": "nan"}``,
``{"$dict": [[key, value], …]}``.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..sd2.config import CONTEXT_WIDTHS, SD2_CONFIG
from ..sd2.errors import SD2ClipError, UnreadableFileError, and_more, fault
from ..sd2.files.atomic_write import save_tensors, write_safetensors
from ..sd2.files.bounded_json import parse_json
from ..sd2.files.file_kinds import (
    CONDITIONING_FORMAT,
    CONDITIONING_KEY,
    CORE_OPTIONS_KEY,
    CORE_TENSOR,
    conditioning_record,
)
from ..sd2.files.path_inside import OutsideFolderError, path_inside
from ..sd2.files.safetensors_header import read_safetensors_header
from ..sd2.files.tensor_storage import copy_tensors
from ..sd2.files.write_new import write_new
from .provenance import RECORD_KEY, RECORDS_KEY, complete_record, record_as_json, record_as_text

_DATE_WORDS = {
    "year": "%Y",
    "month": "%m",
    "day": "%d",
    "hour": "%H",
    "minute": "%M",
    "second": "%S",
}


class ConditioningError(SD2ClipError):
    """Conditioning cannot be saved, or a file holds none."""


class _Tensors(dict[str, torch.Tensor]):
    """The tensors of a file under unique names."""

    def keep(self, name: str, tensor: torch.Tensor) -> str:
        while name in self:  # an option may be called "cond", or have dots in its name
            name += "_"
        # Copied: safetensors refuses tensors that share memory, such as one pooled vector in two
        # entries.
        self[name] = tensor.detach().cpu().contiguous().clone()
        return name


def _to_json(value: Any, where: str, tensors: _Tensors) -> Any:
    """Convert *value* to JSON for ``_from_json``; its tensors are added to *tensors*."""
    if isinstance(value, torch.Tensor):
        return {"$tensor": tensors.keep(where, value)}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, (list, tuple)):
        items = [_to_json(item, f"{where}.{i}", tensors) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _to_json(item, f"{where}.{key}", tensors) for key, item in value.items()}
        pairs = [[key, item] for key, item in value.items()]
        return {"$dict": _to_json(pairs, where, tensors)}
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not value.shape:
        return _to_json(value.item(), where, tensors)
    raise ConditioningError(
        f"This conditioning cannot be saved: its {where.partition('.')[2]!r} is a "
        f"{type(value).__name__}, which exists only while a workflow runs. Save the conditioning "
        "before the node that adds it (such as ControlNet or hooks)."
    )


def _from_json(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag: str
    inner: Any
    tag, inner = next(iter(value.items())) if len(value) == 1 else ("", None)
    if tag == "$tensor":
        return tensors[inner]
    if tag == "$float":
        return float(inner)
    if tag == "$tuple":
        return tuple(_from_json(inner, tensors))
    if tag == "$dict":
        return dict(_from_json(inner, tensors))
    return {key: _from_json(item, tensors) for key, item in value.items()}


def _fits_core(options: Mapping[str, Any]) -> bool:
    """Tell whether ComfyUI's Load Conditioning can read *options*, all under their own names."""
    for name, value in options.items():
        items = value if isinstance(value, (list, tuple)) else [value]
        if _holds_tensors(value):
            is_list_item = str(name).rpartition(".")[2].isdigit()
            if name == CORE_TENSOR or is_list_item or not _are_all(items, torch.Tensor):
                return False
        elif not _are_all(items, (bool, int, float, str, type(None))):
            return False
    return True


def _are_all(items: Iterable[Any], kinds: type | tuple[type, ...]) -> bool:
    return all(isinstance(item, kinds) for item in items)


def _holds_tensors(value: Any) -> bool:
    items = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(item, torch.Tensor) for item in items)


def save_conditioning(
    path: Path, conditioning: list[list[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write *conditioning* to *path* atomically; an existing file is replaced.

    *metadata* is added to the file's (ComfyUI's ``prompt`` and ``workflow``).
    """
    write_safetensors(path, *_file_contents(conditioning, metadata or {}))


def _file_contents(
    conditioning: list[list[Any]], metadata: Mapping[str, str]
) -> tuple[_Tensors, dict[str, str]]:
    """Return tensors and metadata of the file."""
    if not conditioning:
        raise ConditioningError("There is no conditioning to save: the list is empty.")
    about = dict(metadata)
    conditioning = [[cond, _with_complete_record(options)] for cond, options in conditioning]
    tensors = _Tensors()
    if len(conditioning) == 1 and _fits_core(conditioning[0][1]):
        [(cond, options)] = conditioning
        entries = [_entry(cond, options, CORE_TENSOR, "", tensors)]
        values = {
            name: value
            for name, value in options.items()
            if value is not None and not _holds_tensors(value)
        }
        about[CORE_OPTIONS_KEY] = json.dumps(values)
    else:
        entries = [
            _entry(cond, options, f"{index}.cond", f"{index}.", tensors)
            for index, (cond, options) in enumerate(conditioning)
        ]
    layout = {"format": CONDITIONING_FORMAT, "entries": entries}
    about[CONDITIONING_KEY] = json.dumps(layout, allow_nan=False)
    return tensors, about


def _entry(
    cond: torch.Tensor, options: Mapping[str, Any], name: str, prefix: str, tensors: _Tensors
) -> dict[str, Any]:
    """Return an entry as JSON; its tensors are added to *tensors*."""
    return {
        "cond": tensors.keep(name, cond),
        "options": {
            key: _to_json(
                record_as_json(value) if key == RECORD_KEY else value, f"{prefix}{key}", tensors
            )
            for key, value in options.items()
        },
    }


def _with_complete_record(options: Mapping[str, Any]) -> Mapping[str, Any]:
    if RECORD_KEY not in options:
        return options
    return {**options, RECORD_KEY: complete_record(options[RECORD_KEY])}


def load_conditioning(path: Path) -> list[list[Any]]:
    """Load what ``save_conditioning`` or ComfyUI's Save Conditioning wrote.

    It comes back equal in order, options, tensors and dtypes.
    """
    try:
        locations, metadata = read_safetensors_header(path)
        tensors = copy_tensors(locations)
    except UnreadableFileError as error:
        raise ConditioningError(f"{path} cannot be read as conditioning: {error}") from error
    about = conditioning_record(metadata)
    if about is None and CORE_TENSOR not in tensors:
        if RECORDS_KEY in metadata:
            raise ConditioningError(
                f"{path} was written by sd2-clip prompt for another program. For this node write "
                "it with: sd2-clip prompt TEXT --for comfyui --checkpoint FILE --out FILE"
            )
        first = and_more(tensors, 3) or "no tensors"
        raise ConditioningError(
            f"{path} is a safetensors file, but not one that Save SD2 Conditioning or ComfyUI's "
            f"Save Conditioning wrote (it holds {first}). Choose a file of one of these nodes."
        )
    try:
        if about is None:
            return [_from_core(path, tensors, metadata)]
        return [
            [tensors[entry["cond"]], _with_text_record(_from_json(entry["options"], tensors))]
            for entry in about["entries"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConditioningError(
            f"{path} is damaged conditioning: {fault(error)}. Save it again."
        ) from error


def _with_text_record(options: dict[str, Any]) -> dict[str, Any]:
    if RECORD_KEY in options:
        options[RECORD_KEY] = record_as_text(options[RECORD_KEY])
    return options


def _from_core(
    path: Path, tensors: dict[str, torch.Tensor], metadata: Mapping[str, str]
) -> list[Any]:
    """Return the entry of a file of ComfyUI's Save Conditioning."""
    cond = tensors.pop(CORE_TENSOR)
    width = cond.shape[-1] if cond.dim() else 0
    if width in CONTEXT_WIDTHS and width != SD2_CONFIG.hidden_size:
        raise ConditioningError(
            f"{path} holds conditioning {width} wide, for {CONTEXT_WIDTHS[width]}; that of Stable "
            f"Diffusion 2.x is {SD2_CONFIG.hidden_size} wide. Use it with its own model, or encode "
            "the text with Encode SD2 Text."
        )
    options: dict[str, Any] = dict(parse_json(metadata.get(CORE_OPTIONS_KEY, "{}")).items())
    lists: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        stem, _, index = name.rpartition(".")
        if index.isdecimal() and index.isascii():
            lists.setdefault(stem, {})[int(index)] = tensor
        else:
            options[name] = tensor
    for name, items in lists.items():
        options[name] = [items[index] for index in sorted(items)]
    return [cond, options]


def _advice(error: Exception) -> str:
    no_space = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))  # Windows has no quotas
    if isinstance(error, OSError) and error.errno in no_space:
        return "Free some space, and run again."
    return "Choose another filename_prefix."


def save_numbered(
    folder: Path, prefix: str, conditioning: list[list[Any]], metadata: Mapping[str, str]
) -> Path:
    """Save as the next ``<prefix>_00001_.safetensors`` below *folder*; return its path.

    Files are numbered as in ComfyUI and never replaced, even if other programs save at the same
    time. *prefix* may have folders, with either path separator, and ComfyUI's ``%year%``,
    ``%month%``, ``%day%``, ``%hour%``, ``%minute%`` and ``%second%``.
    """
    now = time.localtime()
    for word, code in _DATE_WORDS.items():
        prefix = prefix.replace(f"%{word}%", time.strftime(code, now))
    try:
        target = path_inside(Path(os.path.abspath(folder)), prefix)
    except OutsideFolderError:
        target = None
    if target is None or ":" in prefix:  # Windows' mark of drives and streams
        raise ConditioningError(
            f"filename_prefix {prefix!r} leads out of the output folder {folder} or names no file. "
            "Use a name such as conditioning/sd2."
        )
    tensors, about = _file_contents(conditioning, metadata)
    pattern = re.compile(re.escape(target.name) + r"_(\d+)_\.safetensors", re.IGNORECASE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        taken = [int(m[1]) for m in map(pattern.fullmatch, os.listdir(target.parent)) if m]
        numbers = itertools.count(max(taken, default=0) + 1)
        return write_new(
            target.parent,
            (target.with_name(f"{target.name}_{number:05}_.safetensors") for number in numbers),
            lambda path: save_tensors(path, tensors, about),
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConditioningError(
            f"Conditioning cannot be saved as {target}: {reason}. {_advice(error)}"
        ) from error
