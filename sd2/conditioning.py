"""Conditioning on disk: one safetensors file that says how it was made.

Tensors are ``<entry>.cond`` and ``<entry>.<option>``; everything else lies in the metadata as JSON
under ``sd2_clip``, so that any safetensors reader can use the file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .errors import SD2ClipError

FORMAT = "sd2_clip.conditioning/1"


class ConditioningError(SD2ClipError):
    """Conditioning that cannot be saved, or a file that holds none."""


def _plain(value: Any, where: str) -> Any:
    """*value* if JSON gives it back unchanged; an error that names it otherwise."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise ConditioningError(
        f"This conditioning cannot be saved: its {where!r} is a {type(value).__name__}, which "
        "belongs to a running workflow. Save it before nodes such as ControlNet or hooks add to it."
    )


def _own(tensor: torch.Tensor) -> torch.Tensor:
    # A copy of its own: safetensors refuses tensors that share memory, such as one pooled vector
    # in two entries.
    return tensor.detach().cpu().contiguous().clone()


def save_conditioning(
    path: Path, conditioning: list[list[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write *conditioning* to *path*, whole or not at all.

    *metadata* goes into the file beside ours (ComfyUI's ``prompt`` and ``workflow``).
    """
    tensors: dict[str, torch.Tensor] = {}
    entries: list[dict[str, Any]] = []
    for index, (cond, options) in enumerate(conditioning):
        tensors[f"{index}.cond"] = _own(cond)
        plain: dict[str, Any] = {}
        for key, value in options.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{key}"] = _own(value)
            else:
                plain[key] = _plain(value, key)
        named = [key for key in options if f"{index}.{key}" in tensors]
        entries.append({"tensors": named, "options": plain})
    if not entries:
        raise ConditioningError("There is no conditioning to save: the list is empty.")
    about = json.dumps({"format": FORMAT, "entries": entries}, ensure_ascii=False)
    data = save(tensors, {**(metadata or {}), "sd2_clip": about})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def load_conditioning(path: Path) -> list[list[Any]]:
    """What ``save_conditioning`` wrote, as it was: order, options, tensors and their dtypes."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConditioningError(f"{path} cannot be read as conditioning: {error}") from error
    about = json.loads(metadata.get("sd2_clip", "{}"))
    if about.get("format") != FORMAT:
        first = ", ".join(list(tensors)[:3]) or "no tensors"
        raise ConditioningError(
            f"{path} is a safetensors file, but no conditioning saved by Save SD2 Conditioning "
            f"(it holds {first}). Choose a file which that node wrote."
        )
    return [
        [
            tensors[f"{index}.cond"],
            {
                **{key: tensors[f"{index}.{key}"] for key in entry["tensors"]},
                **entry["options"],
            },
        ]
        for index, entry in enumerate(about["entries"])
    ]


def next_path(folder: Path, prefix: str) -> Path:
    """The next free ``<prefix>_00001_.safetensors`` below *folder*, as ComfyUI counts.

    *prefix* may name folders below *folder*, with either separator, but none outside it.
    """
    target = Path(os.path.abspath(folder / prefix.replace("\\", "/")))
    if not target.is_relative_to(os.path.abspath(folder)) or not target.name:
        raise ConditioningError(
            f"filename_prefix {prefix!r} leads out of the output folder {folder}. "
            "Use a name such as conditioning/sd2."
        )
    pattern = re.compile(re.escape(target.name) + r"_(\d+)_\.safetensors")
    names = os.listdir(target.parent) if target.parent.is_dir() else []
    taken = [int(match[1]) for match in map(pattern.fullmatch, names) if match]
    return target.with_name(f"{target.name}_{max(taken, default=0) + 1:05}_.safetensors")
