"""Reads alpha where trainers of the PEFT family keep it: outside the tensors of a LoRA file.

In the header of a safetensors file as ``lora_adapter_metadata`` (diffusers) or as keys of their own
(SimpleTuner and others), or in ``adapter_config.json`` beside the file (PEFT).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from ..files.checkpoint import Checkpoint
from ..files.limits import MAX_ADAPTER_CONFIG_BYTES

ADAPTER_CONFIG = "adapter_config.json"

_ALPHA_KEYS = ("lora_alpha", "network_alpha", "alpha")
_RANK_KEYS = ("r", "rank", "lora_rank", "network_dim")
_TEXT_ENCODER = "text_encoder."


@dataclass(frozen=True)
class AlphaOutsideTensors:
    """Alpha of all modules of a LoRA, and of those that are named."""

    source: str
    """Where it was found, in words."""
    alpha: float
    rank: int | None
    """The rank that it belongs to; None if the source gives none."""
    rslora: bool
    """Whether the change is scaled by ``alpha / sqrt(rank)`` instead of ``alpha / rank``."""
    alpha_pattern: Mapping[str, float]
    """Alpha of some modules, by their names or the ends of their names."""
    rank_pattern: Mapping[str, float]

    def of(self, module: str, rank: int) -> float | None:
        """Alpha of *module* for ``alpha / rank``; None if this is for another rank."""
        expected = _by_name(self.rank_pattern, module, self.rank)
        if expected is not None and expected != rank:
            return None
        alpha = _by_name(self.alpha_pattern, module, self.alpha)
        return alpha * sqrt(rank) if self.rslora and alpha is not None else alpha


def find_alpha_outside_tensors(checkpoint: Checkpoint) -> AlphaOutsideTensors | None:
    """Alpha of the text encoder's part; None if there is none that can be read."""
    metadata = checkpoint.metadata
    packed = _json_object(metadata.get("lora_adapter_metadata", ""))
    found = _read(packed, "lora_adapter_metadata in the file's header")
    if found is None:
        found = _read(metadata, "the file's header")
    if found is None:
        config = adapter_config_of(checkpoint.files[0])
        if config is not None and _holds_peft_names(checkpoint):
            found = _read(_json_file(config), f"{ADAPTER_CONFIG} beside the file")
    return found


def adapter_config_of(file: Path) -> Path | None:
    """PEFT's configuration in the folder of *file*; None if there is none."""
    config = file.parent / ADAPTER_CONFIG
    return config if config.is_file() else None


def _holds_peft_names(checkpoint: Checkpoint) -> bool:
    # Other LoRAs may lie in the same folder as an adapter and its configuration.
    return any(".lora_A." in name for name in checkpoint.tensors)


def _json_file(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ADAPTER_CONFIG_BYTES + 1)
        return _json_object(data.decode()) if len(data) <= MAX_ADAPTER_CONFIG_BYTES else {}
    except (OSError, UnicodeDecodeError):
        return {}


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(values: Mapping[str, Any], source: str) -> AlphaOutsideTensors | None:
    if values.get("peft_type", "LORA") != "LORA":
        return None
    # diffusers names the model before each value; PEFT, which saves one model, does not.
    for prefix in (_TEXT_ENCODER, ""):
        alpha = next((a for k in _ALPHA_KEYS if (a := _number(values.get(prefix + k)))), None)
        if alpha is None:
            continue
        rank = next((r for k in _RANK_KEYS if (r := _number(values.get(prefix + k)))), None)
        return AlphaOutsideTensors(
            source,
            alpha,
            None if rank is None else int(rank),
            str(values.get(f"{prefix}use_rslora")).lower() in ("true", "1"),
            _pattern(values.get(f"{prefix}alpha_pattern")),
            _pattern(values.get(f"{prefix}rank_pattern")),
        )
    return None


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and isfinite(number) and number > 0 else None


def _pattern(value: Any) -> Mapping[str, float]:
    if isinstance(value, str):
        value = _json_object(value)
    if not isinstance(value, dict):
        return {}
    numbers = {name: _number(number) for name, number in value.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def _by_name(pattern: Mapping[str, float], module: str, default: float | None) -> float | None:
    """The value whose name is *module* or its end, as in PEFT.

    PEFT takes names as regular expressions. All that it writes itself are plain names.
    """
    for name, value in pattern.items():
        plain = name.removeprefix("^").replace("\\.", ".")
        if module == plain or module.endswith(f".{plain}"):
            return value
    return default
