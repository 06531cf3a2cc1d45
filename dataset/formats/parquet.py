"""Parquet: a row a caption, in row groups that are read alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from ...sd2.errors import OptionError
from ..caption_encoder import METADATA_KEY
from ..encoded_rows import EncodedRows, OutputFile, valid_text
from ..inputs.rows import NEEDS_PYARROW
from .base import Format

if TYPE_CHECKING:
    import numpy as np

ROW_GROUP = 16
"""Rows of a row group: 2.5 MB at SD2's width, read with one request."""


class Parquet(Format):
    """Columns ``key``, ``caption``, ``caption_latents``, ``token_count``, ``truncated``, …"""

    name = "parquet"
    options = ("layout", "token_ids")

    def check(self, settings: Mapping[str, Any]) -> None:
        try:
            from ..arrow_table import LAYOUTS
        except ImportError as error:
            raise OptionError(
                f"Writing parquet {NEEDS_PYARROW} Or choose --format safetensors."
            ) from error
        if settings["stored_in"] == "bfloat16":
            raise OptionError("Parquet has no bf16. Choose --store fp16 or --format safetensors.")
        if self.chosen.layout not in LAYOUTS:
            raise OptionError(
                f"layout {self.chosen.layout!r} is unknown. Choose {', '.join(LAYOUTS)}."
            )

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        yield OutputFile(f"{stem}.parquet", lambda file: self._write(rows, settings, file))

    def _write(self, rows: EncodedRows, settings: Mapping[str, Any], file: BinaryIO) -> None:
        from pyarrow import parquet

        first = self._table(rows, 0, settings)
        with parquet.ParquetWriter(
            file, first.schema, compression="none", use_dictionary=False, write_statistics=False
        ) as writer:
            writer.write_table(first)
            for start in range(ROW_GROUP, len(rows.captions), ROW_GROUP):
                writer.write_table(self._table(rows, start, settings))

    def _table(self, rows: EncodedRows, start: int, settings: Mapping[str, Any]) -> Any:
        """Build a row group; only its embeddings are copied."""
        import numpy as np
        import pyarrow as pa

        from ..arrow_table import tensor_column

        some = slice(start, start + ROW_GROUP)
        row_of = np.array(rows.row_of[some], dtype=np.int64)
        captions = rows.captions[some]

        def tensors(values: np.ndarray[Any, Any]) -> Any:
            return tensor_column(values[row_of], self.chosen.layout)

        columns = {
            "key": pa.array([valid_text(caption.key) for caption in captions], pa.string()),
            "caption": pa.array([valid_text(caption.text) for caption in captions], pa.string()),
            "token_count": pa.array(rows.token_counts[some], pa.int32()),
            "truncated": pa.array(rows.truncated[some], pa.bool_()),
        }
        columns |= {name: tensors(rows.array(name)) for name in rows.tensors}
        if self.chosen.token_ids:
            columns["token_ids"] = tensors(np.array(rows.chunks, dtype=np.int32))
        metadata = {METADATA_KEY: json.dumps(dict(settings), sort_keys=True)}
        return pa.table(columns, metadata=metadata)
