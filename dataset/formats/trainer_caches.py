"""Text caches of trainers: a file for each caption, found by a hash of its text."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from ...sd2.errors import OptionError
from ..encoded_rows import LATENTS, EncodedRows, OutputFile, valid_text
from ..inputs.captions import Caption
from .base import Format

if TYPE_CHECKING:
    import torch

VIEWS = ("side view", "front view", "back view", "overhead view")
"""What threestudio appends to a prompt for the directions it looks from."""


class SimpleTuner(Format):
    """SimpleTuner's text embeds for SD2; its file names say nothing of the weights."""

    name = "simpletuner"
    per_fragment = False

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        latents = rows.tensors[LATENTS]
        for text, row in _distinct(rows).items():
            name = f"{_md5(text)}-sd2x.pt"
            yield OutputFile(name, _saves({"prompt_embeds": latents[row : row + 1].clone()}))


class Threestudio(Format):
    """threestudio's cache: fp32, for each prompt itself and its four views."""

    name = "threestudio"
    options = ("model_name",)
    needs_encoder = True
    per_fragment = False
    rows = 200
    """Each is five captions."""

    def check(self, settings: Mapping[str, Any]) -> None:
        if not self.chosen.model_name:
            raise OptionError(
                "--format threestudio needs --model-name, the value of threestudio's "
                "pretrained_model_name_or_path, which is part of its file names."
            )
        if settings["stored_in"] != "float32":
            raise OptionError("threestudio reads fp32. Choose --store fp32.")

    def expand(self, captions: Sequence[Caption]) -> Sequence[Caption]:
        texts = {
            text: None
            for caption in captions
            for text in (caption.text, *(f"{caption.text}, {view}" for view in VIEWS))
        }
        return [Caption(text, text) for text in texts]

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        latents = rows.tensors[LATENTS]
        for text, row in _distinct(rows).items():
            name = f"{_md5(f'{self.chosen.model_name}-{text}')}.pt"
            yield OutputFile(name, _saves(latents[row].clone()))


def _distinct(rows: EncodedRows) -> dict[str, int]:
    """Return the row of each distinct text."""
    return {caption.text: row for caption, row in zip(rows.captions, rows.row_of, strict=True)}


def _md5(text: str) -> str:
    return hashlib.md5(valid_text(text).encode(), usedforsecurity=False).hexdigest()


def _saves(value: torch.Tensor | dict[str, torch.Tensor]) -> Any:
    def write(file: BinaryIO) -> None:
        import torch

        data = io.BytesIO()  # whose name is in the file: the same for all
        torch.save(value, data)
        file.write(data.getvalue())

    return write
