"""A reader and a writer of ComfyUI's conditioning files, written from the format alone.

Safetensors; ``conditioning``; each tensor option under its name, a list of them as ``name.0``,
``name.1``; other options as one JSON object in the metadata's ``conditioning_options``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Entry = tuple[torch.Tensor, dict[str, Any]]


class NotSavableError(Exception):
    """ComfyUI's node refuses this conditioning."""


def write_core(path: Path, conditioning: list[list[Any]]) -> None:
    """Write what ComfyUI's Save Conditioning writes, and refuse what it refuses."""
    if len(conditioning) > 1:
        raise NotSavableError("more than one entry")
    [(cond, options)] = conditioning
    tensors = {"conditioning": cond.clone()}
    plain = {}
    for name, value in options.items():
        if torch.is_tensor(value):
            tensors[name] = value.clone()
        elif type(value) in (list, tuple) and all(map(torch.is_tensor, value)):
            for number, tensor in enumerate(value):
                tensors[f"{name}.{number}"] = tensor.clone()
        elif isinstance(value, bool | int | float | str):
            plain[name] = value
        elif value is not None:
            raise NotSavableError(name)
    save_file(tensors, path, {"conditioning_options": json.dumps(plain)})


def read_core(path: Path) -> list[list[Any]]:
    """Read what ComfyUI's Load Conditioning reads, as it reads it."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        options = json.loads((file.metadata() or {}).get("conditioning_options", "{}"))
    cond = tensors.pop("conditioning")
    for name in sorted(tensors, key=lambda name: (len(name), name)):
        stem, dot, number = name.rpartition(".")
        if dot and number.isdigit():
            options.setdefault(stem, []).append(tensors[name])
        else:
            options[name] = tensors[name]
    return [[cond, options]]
