"""Computes SHA-256 digests of tensors and weight patches, which identify them in provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch


def tensor_digest(tensor: torch.Tensor) -> str:
    """Digest of shape, dtype and bytes."""
    sha = hashlib.sha256()
    _feed(sha, tensor)
    return sha.hexdigest()


def state_dict_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Digest of all names, shapes, dtypes and bytes, in any order; reads one tensor at a time."""
    return patches_digest({name: tensor_digest(tensor) for name, tensor in tensors})


def patches_digest(patches: Mapping[str, Any]) -> str:
    """Digest of weight patches, ours or ComfyUI's: every tensor, number and name in them."""
    sha = hashlib.sha256()
    _feed(sha, patches)
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        sha.update(f"{list(value.shape)} {value.dtype}\n".encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    elif value is None or isinstance(value, (bool, int, float, str)):
        sha.update(f"{value!r}\n".encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            sha.update(f"{key}\n".encode())
            _feed(sha, value[key])
    elif isinstance(value, (list, tuple)):
        sha.update(f"[{len(value)}\n".encode())
        for item in value:
            _feed(sha, item)
    else:  # an object such as a host's LoRA: its class and its attributes
        sha.update(f"{type(value).__qualname__}\n".encode())
        _feed(sha, getattr(value, "__dict__", None))
