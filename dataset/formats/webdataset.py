"""Webdataset tars: ``KEY.txt`` and ``KEY.caption_latents.npy`` for each caption."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ...sd2.errors import OptionError
from ..encoded_rows import EncodedRows, OutputFile, valid_text
from .base import Format


class WebDataset(Format):
    """A tar a fragment. Dots in the last part of a key would end it: they are written ``%2E``."""

    name = "webdataset"

    def check(self, settings: Mapping[str, Any]) -> None:
        if settings["stored_in"] == "bfloat16":
            raise OptionError("numpy has no bf16. Choose --store fp16 or --format safetensors.")

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        yield OutputFile(f"{stem}.tar", lambda file: self._write(rows, file))

    def _write(self, rows: EncodedRows, file: BinaryIO) -> None:
        import numpy as np

        arrays = {name: rows.array(name) for name in rows.tensors}
        with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for caption, row in zip(rows.captions, rows.row_of, strict=True):
                key = member_name(valid_text(caption.key))
                _add(tar, f"{key}.txt", valid_text(caption.text).encode())
                for name, array in arrays.items():
                    data = io.BytesIO()
                    np.save(data, array[row])
                    _add(tar, f"{key}.{name}.npy", data.getvalue())


def member_name(key: str) -> str:
    """Turn a key into a name that webdataset reads as one key, and that leads out of no folder."""
    parts = key.replace("%", "%25").replace("\\", "%5C").split("/")
    safe = [part if part.strip(".") else part.replace(".", "%2E") for part in parts]
    safe = [part or "%2F" for part in safe]
    safe[-1] = "empty" if key == "" else safe[-1].replace(".", "%2E")
    return "/".join(safe)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # without times or owners, which would differ from run to run
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
