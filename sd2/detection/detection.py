"""What detection found in a file: the record that loaders, reports and JSON are made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..errors import and_more
from ..files.checkpoint import TensorInfo
from ..files.tensor_storage import itemsize
from .clip_towers import KeyStyle
from .tensor_source import TensorSource

MAIN_SHARE = 0.01
"""Share of the bytes above which a dtype is named. A layer has 3 %, all norms and biases 0.2 %."""


@dataclass(frozen=True)
class Detection:
    """SD2's text encoder in a file, and what else the file holds."""

    path: Path
    layout: str
    """How the file is laid out, in words: "ldm checkpoint", "diffusers text encoder"…"""
    key_style: KeyStyle
    prefix: str
    """What precedes the names of the tensors, "text_model." included."""
    num_layers: int
    """Layers of the file that are trained weights, not placeholders."""
    model_layers: int
    """Layers of the whole encoder: 24. SD2 uses the output of the last but one."""
    width: int
    dtype: str
    """safetensors' name of the weights' type, see ``main_dtypes``: "F16", "F8_E4M3 and F16"."""
    family: str
    has_projection: bool
    missing: tuple[str, ...]
    """Canonical names of parts that the file lacks and SD2's conditioning does not need."""
    surplus: tuple[str, ...]
    """Tensors under the prefix that are not part of the encoder, and are not read."""
    warnings: tuple[str, ...]
    """Sentences about what a user should know."""
    contents: tuple[str, ...]
    """Other models in the same file, in words."""
    notes: tuple[str, ...]
    """What opening the file found: which file of a folder was read, which objects were left out."""
    sources: Mapping[str, TensorSource]
    """By canonical name."""

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``: everything but ``sources``. Its keys are part of the interface."""
        return {
            "path": str(self.path),
            "family": self.family,
            "layout": self.layout,
            "naming": self.key_style,
            "prefix": self.prefix,
            "layers": self.num_layers,
            "model_layers": self.model_layers,
            "width": self.width,
            "dtype": self.dtype,
            "has_projection": self.has_projection,
            "missing": list(self.missing),
            "surplus": list(self.surplus),
            "suspicious": list(self.warnings),
            "contents": list(self.contents),
            "notes": list(self.notes),
        }

    def describe(self) -> str:
        """Several lines for people."""
        layers = f"{self.num_layers} of {self.model_layers}"
        if self.num_layers < self.model_layers:
            layers += " (SD2 does not use the last)"
        lines = [
            ("Text encoder", f"{self.family}, {self.width} wide"),
            ("File", str(self.path)),
            ("Layout", f"{self.layout}, prefix {self.prefix!r}"),
            ("Layers", layers),
            ("Type", self.dtype),
            ("Projection", "yes" if self.has_projection else "no (only pooled output needs it)"),
        ]
        lines += [("Also there", part) for part in self.contents]
        if self.surplus:
            lines.append(("Not used", and_more([name[:100] for name in self.surplus], 4)))
        lines += [("Note", sentence) for sentence in (*self.warnings, *self.notes)]
        return "\n".join(f"{label + ':':<14}{text}" for label, text in lines)


def main_dtypes(tensors: Mapping[str, TensorInfo], names: Iterable[str]) -> list[str]:
    """Return the dtypes of the named tensors that take up a share of their bytes, largest first."""
    sizes: Counter[str] = Counter()
    for name in names:
        info = tensors[name]
        sizes[info.dtype] += prod(info.shape) * (itemsize(info.dtype) or 1)
    return [dtype for dtype, size in sizes.most_common() if size >= MAIN_SHARE * sizes.total()]
