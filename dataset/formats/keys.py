"""Keys: which caption each key has, by the identity of its tokens; no embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ...sd2.errors import OptionError
from ..encoded_rows import EncodedRows, OutputFile, valid_text
from ..inputs.rows import NEEDS_PYARROW
from ..tokenizers import content_id
from .base import Format

ROW_GROUP = 2000


class Keys(Format):
    """Parquet with the columns ``key``, ``caption``, ``content_id``, ``token_count``, …"""

    name = "keys"
    rows = 20_000
    """About 2 MB."""

    def check(self, settings: Mapping[str, Any]) -> None:
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise OptionError(f"--dedup global {NEEDS_PYARROW}") from error

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        yield OutputFile(f"{stem}.parquet", lambda file: self._write(rows, file))

    def _write(self, rows: EncodedRows, file: BinaryIO) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        identities = [content_id(chunk) for chunk in rows.chunks]
        columns = {
            "key": pa.array([valid_text(caption.key) for caption in rows.captions], pa.string()),
            "caption": pa.array(
                [valid_text(caption.text) for caption in rows.captions], pa.string()
            ),
            "content_id": pa.array([identities[row] for row in rows.row_of], pa.string()),
            "token_count": pa.array(rows.token_counts, pa.int32()),
            "truncated": pa.array(rows.truncated, pa.bool_()),
        }
        parquet.write_table(
            pa.table(columns),
            file,
            row_group_size=ROW_GROUP,
            use_dictionary=False,
            write_statistics=False,
        )
