"""Records how a conditioning was made, from the encoder to the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..version import __version__

if TYPE_CHECKING:
    import torch

    from ..host.interface import Clip, Conditioning
    from ..sd2.tokens.tokenized_text import TokenizedText
    from .encode_options import EncodeOptions
    from .source import EncoderSource

RECORD_KEY = "sd2_clip"
"""In the options of a conditioning entry: its ``EncodingRecord``; in a file, the record as JSON."""


@dataclass(frozen=True)
class EncodingRecord:
    """Everything that an encoding depends on. Weights are hashed only when it is saved."""

    text: str
    """As typed."""
    prompt: str
    """The one of these tokens, where A1111's syntax makes several prompts of the text."""
    options: EncodeOptions
    layer: str
    tokens: TokenizedText
    dtype: str
    source: EncoderSource | None
    """The file of the weights, None if unknown. The model itself would be kept alive here."""
    patches: Mapping[str, Any]
    """Changes by LoRAs and merges, by the name of the weight."""
    cond_digest: str

    def __deepcopy__(self, memo: Any) -> EncodingRecord:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.as_json(),)  # pickled as plain JSON values

    def as_json(self, cond: torch.Tensor | None = None) -> dict[str, Any]:
        """Return the record as JSON values; *cond* is the tensor that is about to be saved."""
        from ..sd2.files.tensor_hash import patches_digest, tensor_digest

        source = self.source
        changed = {}
        if cond is not None:
            changed["changed_since_encoding"] = tensor_digest(cond) != self.cond_digest
        return {
            "text": self.text,
            "part": self.prompt,
            **asdict(self.options),
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
    """Return the weight patches of a handle: ComfyUI's patcher holds them, or our handle."""
    holder = getattr(clip, "patcher", clip)
    return dict(getattr(holder, "patches", {}))


def save_with_record(
    folder: Path, prefix: str, conditioning: Conditioning, workflow: Mapping[str, str]
) -> Path:
    """Save *conditioning* with its records under the next free name; return the path."""
    from .conditioning_file import save_numbered

    plain = []
    written: dict[tuple[int, int], dict[str, Any]] = {}  # alternating prompts come back
    for cond, options in conditioning:
        record = options.get(RECORD_KEY)
        if isinstance(record, EncodingRecord):
            key = id(record), id(cond)
            if key not in written:
                written[key] = record.as_json(cond)
            options = {**options, RECORD_KEY: written[key]}
        plain.append([cond, options])
    return save_numbered(folder, prefix, plain, workflow)
