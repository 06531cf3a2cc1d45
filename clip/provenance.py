"""Records how a conditioning was made, as text that any node and any file can keep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..version import __version__

if TYPE_CHECKING:
    from ..host.interface import Clip
    from ..sd2.tokens.tokenized_text import TokenizedText
    from .encode_options import EncodeOptions
    from .source import EncoderSource

RECORD_KEY = "sd2_clip"
"""In the options of a conditioning entry: its record, as JSON text."""

RECORDS_KEY = "sd2_clip.prompts"
"""In the metadata of a safetensors file of ``sd2-clip prompt``: how each tensor was made, as JSON
by its key."""


class EncodingRecord(str):
    """Everything that an encoding depends on, as JSON text.

    ComfyUI's nodes keep and save an option that is text. The weights are described by their file;
    they are hashed only by ``with_digests``, from the live objects that this one carries.
    """

    _source: EncoderSource | None
    _patches: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        *,
        text: str,
        prompt: str,
        options: EncodeOptions,
        layer: str,
        tokens: TokenizedText,
        dtype: str,
        source: EncoderSource | None,
        patches: Mapping[str, Any],
    ) -> EncodingRecord:
        """Make the record of one prompt.

        *text* is as typed; *prompt* is the one of *tokens*, where A1111's syntax makes several of
        the text. *source* is the file of the weights, None if unknown: the model itself would be
        kept alive. *patches* are the changes by LoRAs and merges, by the name of the weight.
        """
        record = cls(
            json.dumps(
                {
                    "text": text,
                    "part": prompt,
                    **asdict(options),
                    "layer": layer,
                    "dtype": dtype,
                    "weights": {
                        "file": "unknown" if source is None else str(source.detection.path),
                        "bytes": sum(s.size for s in source.stamps)
                        if source is not None and source.stamps
                        else None,
                        "header_sha256": None if source is None else source.header_sha256,
                        "patched_tensors": len(patches),
                    },
                    "embeddings": [
                        {"name": one.name, "sha256": one.sha256} for one in tokens.embeddings
                    ],
                    "ignored": [f"{one.name}: {one.reason}" for one in tokens.ignored],
                    "warnings": list(tokens.warnings),
                    "version": __version__,
                }
            )
        )
        # Weights in memory have no file to hash, and the record must not keep them alive.
        record._source = source if source is not None and source.stamps else None
        record._patches = patches
        return record

    def __deepcopy__(self, memo: Any) -> EncodingRecord:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)

    @cached_property
    def with_digests(self) -> str:
        """The record with SHA-256 digests of the weights and their changes; reads the file."""
        from ..sd2.files.tensor_hash import patches_digest

        record = json.loads(self)
        weights = record["weights"]
        weights["tensors_sha256"] = None if self._source is None else self._source.digest()
        weights["patches_sha256"] = patches_digest(self._patches) if self._patches else None
        return json.dumps(record)


def complete_record(record: Any) -> Any:
    """Return the text to save for a record: with digests, if it is that of an encoding."""
    return record.with_digests if isinstance(record, EncodingRecord) else record


def record_as_json(record: Any) -> Any:
    """Return the JSON object of a record's text; anything else unchanged."""
    try:
        value = json.loads(record)
    except (TypeError, ValueError, RecursionError):
        return record
    return value if isinstance(value, dict) else record


def record_as_text(record: Any) -> Any:
    """Return the text of a record's JSON object; anything else unchanged."""
    return json.dumps(record) if isinstance(record, dict) else record


def patches_of(clip: Clip) -> Mapping[str, Any]:
    """Return the weight patches of a handle: ComfyUI's patcher holds them, or our handle."""
    holder = getattr(clip, "patcher", clip)
    return dict(getattr(holder, "patches", {}))
