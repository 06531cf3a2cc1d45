"""Safetensors: what ``EncodedCaptions`` maps for random access; captions are rows of JSON.

caption_latents (D, 77, W), caption_pooled (D, W), token_ids (D, 77): of distinct captions
row_of (N,): of each caption, its row in them
text (bytes,), text_ends (N,): of each caption, a JSON object and where it ends
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ..caption_encoder import METADATA_KEY
from ..encoded_rows import EncodedRows, OutputFile
from .base import Format


class Safetensors(Format):
    """Embeddings of distinct captions, and for each caption which one is its own."""

    name = "safetensors"
    options = ("token_ids",)

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        yield OutputFile(f"{stem}.safetensors", lambda file: self._write(rows, settings, file))

    def _write(self, rows: EncodedRows, settings: Mapping[str, Any], file: BinaryIO) -> None:
        import torch
        from safetensors.torch import save

        entries = [
            json.dumps(
                {
                    "key": caption.key,
                    "caption": caption.text,
                    "token_count": count,
                    "truncated": truncated,
                }
            ).encode()
            for caption, count, truncated in zip(
                rows.captions, rows.token_counts, rows.truncated, strict=True
            )
        ]
        text = torch.frombuffer(bytearray(b"".join(entries)), dtype=torch.uint8)
        lengths = torch.tensor([len(entry) for entry in entries])
        tensors = {
            **rows.tensors,
            "row_of": torch.tensor(rows.row_of, dtype=torch.int32),
            "text": text,
            "text_ends": lengths.cumsum(0),
        }
        if self.chosen.token_ids:
            tensors["token_ids"] = torch.tensor(rows.chunks, dtype=torch.int32)
        # One key: safetensors writes several in any order, and equal runs must give equal bytes.
        metadata = {METADATA_KEY: json.dumps(dict(settings), sort_keys=True)}
        file.write(save(tensors, metadata))
