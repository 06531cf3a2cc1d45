"""How a conditioning was made, kept with it from the encoder to the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__

if TYPE_CHECKING:
    import torch

    from ..host.interface import Clip, Conditioning
    from ..sd2.tokens.tokenized_text import TokenizedText
    from .load_clip import EncoderSource

RECORD_KEY = "sd2_clip"
"""In a conditioning's options: its ``EncodingRecord``; in a file, that record as JSON."""


@dataclass(frozen=True)
class EncodingRecord:
    """What an encoding depended on. Digests of weights are taken when it is saved, not before."""

    text: str
    """As typed; where A1111's dialect makes several of it, ``part`` is the one of these tokens."""
    part: str
    options: Mapping[str, Any]
    """``syntax``, ``weight_interpretation`` and the others of ``encode_text``."""
    layer: str
    tokens: TokenizedText
    dtype: str
    source: EncoderSource | None
    """The file of the weights; None: unknown. Not the model itself, which would live on here."""
    patches: Mapping[str, Any]
    """Changes of weights by LoRAs and merges, by the weight's name."""
    cond_digest: str

    def __deepcopy__(self, memo: Any) -> EncodingRecord:
        return self  # nobody changes it

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.as_json(),)  # pickled, it is what it says

    def as_json(self, cond: torch.Tensor | None = None) -> dict[str, Any]:
        """All of it as JSON-able values; *cond* is the tensor that is about to be saved."""
        from ..sd2.files.tensor_hash import patches_digest, tensor_digest

        source = self.source
        changed = {}
        if cond is not None:
            changed["changed_since_encoding"] = tensor_digest(cond) != self.cond_digest
        return {
            "text": self.text,
            "part": self.part,
            **self.options,
            "layer": self.layer,
            "dtype": self.dtype,
            "weights": {
                "file": "unknown" if source is None else str(source.detection.path),
                "tensors_sha256": None if source is None else source.digest(),
                "patched_tensors": len(self.patches),
                "patches_sha256": patches_digest(self.patches) if self.patches else None,
            },
            "embeddings": [
                {"name": one.name, "sha256": one.sha256} for one in self.tokens.embeddings
            ],
            "ignored": [f"{one.name}: {one.reason}" for one in self.tokens.ignored],
            "warnings": list(self.tokens.warnings),
            **changed,
            "version": __version__,
        }


def patches_of(clip: Clip) -> Mapping[str, Any]:
    """The weight patches on a handle: ComfyUI's patcher holds them, or our handle itself."""
    holder = getattr(clip, "patcher", clip)
    return dict(getattr(holder, "patches", {}))


def save_with_record(
    folder: Path, prefix: str, conditioning: Conditioning, workflow: Mapping[str, str]
) -> Path:
    """Save under the next free name below *folder*; returns the path."""
    from .conditioning_file import save_numbered

    plain = []
    for cond, options in conditioning:
        record = options.get(RECORD_KEY)
        if isinstance(record, EncodingRecord):
            options = {**options, RECORD_KEY: record.as_json(cond)}
        plain.append([cond, options])
    return save_numbered(folder, prefix, plain, workflow)
