"""Saves conditioning as safetensors and loads it.

Tensors are ``<entry>.cond`` and ``<entry>.<option>``; everything else is JSON in the metadata under
``sd2_clip``, so that any safetensors reader can use the file. Values that JSON lacks are tagged:
``{"$tensor": name}``, ``{"$tuple": […]}``, ``{"$float": "nan"}``, ``{"$dict": [[key, value], …]}``.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..sd2.errors import SD2ClipError
from ..sd2.files.atomic_write import write_safetensors
from ..sd2.files.write_new import write_new

FORMAT = "sd2_clip.conditioning/1"

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


def save_conditioning(
    path: Path, conditioning: list[list[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write *conditioning* to *path* atomically; an existing file is replaced.

    *metadata* is added to the file's (ComfyUI's ``prompt`` and ``workflow``).
    """
    tensors = _Tensors()
    entries = [
        {
            "cond": tensors.keep(f"{index}.cond", cond),
            "options": {
                key: _to_json(value, f"{index}.{key}", tensors) for key, value in options.items()
            },
        }
        for index, (cond, options) in enumerate(conditioning)
    ]
    if not entries:
        raise ConditioningError("There is no conditioning to save: the list is empty.")
    about = json.dumps({"format": FORMAT, "entries": entries}, allow_nan=False)
    write_safetensors(path, tensors, {**(metadata or {}), "sd2_clip": about})


def load_conditioning(path: Path) -> list[list[Any]]:
    """Load what ``save_conditioning`` wrote: equal in order, options, tensors and dtypes."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConditioningError(f"{path} cannot be read as conditioning: {error}") from error
    try:
        about = json.loads(metadata["sd2_clip"])
        known = about["format"] == FORMAT
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        first = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ConditioningError(
            f"{path} is a safetensors file, but not one that Save SD2 Conditioning wrote (it holds "
            f"{first}). Choose a file that this node wrote."
        )
    try:
        return [
            [tensors[entry["cond"]], _from_json(entry["options"], tensors)]
            for entry in about["entries"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConditioningError(
            f"{path} is damaged conditioning: {error!r} is missing or wrong in it. Save it again."
        ) from error


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
    root = os.path.abspath(folder)
    target = Path(os.path.abspath(folder / prefix.replace("\\", "/")))
    if str(target) == root or not target.is_relative_to(root) or ":" in prefix:
        raise ConditioningError(
            f"filename_prefix {prefix!r} leads out of the output folder {folder} or names no file. "
            "Use a name such as conditioning/sd2."
        )
    pattern = re.compile(re.escape(target.name) + r"_(\d+)_\.safetensors", re.IGNORECASE)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        taken = [int(m[1]) for m in map(pattern.fullmatch, os.listdir(target.parent)) if m]
        numbers = itertools.count(max(taken, default=0) + 1)
        return write_new(
            target.parent,
            (target.with_name(f"{target.name}_{number:05}_.safetensors") for number in numbers),
            lambda path: save_conditioning(path, conditioning, metadata),
        )
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConditioningError(
            f"Conditioning cannot be saved as {target}: {reason}. Choose another filename_prefix."
        ) from error
