"""Text caches of trainers: a file for each caption, found by a hash of its text."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from ...sd2.errors import OptionError
from ...sd2.files.atomic_write import torch_bytes
from ..encoded_rows import LATENTS, EncodedRows, OutputFile, valid_text
from ..inputs.captions import Caption
from .base import Format

if TYPE_CHECKING:
    import torch

VIEWS = ("side view", "front view", "back view", "overhead view")
"""What threestudio appends to a prompt for the directions it looks from."""


class _FilePerText(Format, ABC):
    """Has a file of ``torch.save`` for each distinct text, found by the text."""

    per_fragment = False

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        texts = {caption.text: row for caption, row in zip(rows.captions, rows.row_of, strict=True)}
        for text, row in texts.items():
            data = torch_bytes(self.value(rows.tensors[LATENTS][row].clone()))
            yield OutputFile(self.file_name(text), _writes(data))

    @abstractmethod
    def file_name(self, text: str) -> str:
        """Return the name of the file of *text*."""

    @abstractmethod
    def value(self, latents: torch.Tensor) -> object:
        """Return what the file holds; *latents* are (77, 1024)."""


class SimpleTuner(_FilePerText):
    """SimpleTuner's text embeds for SD2; its file names say nothing of the weights."""

    name = "simpletuner"

    def file_name(self, text: str) -> str:
        return f"{_md5(text)}-sd2x.pt"

    def value(self, latents: torch.Tensor) -> object:
        return {"prompt_embeds": latents.unsqueeze(0)}


class Threestudio(_FilePerText):
    """threestudio's cache: fp32, for each prompt itself and its four views."""

    name = "threestudio"
    options = ("model_name",)
    needs_encoder = True
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

    def file_name(self, text: str) -> str:
        return f"{_md5(f'{self.chosen.model_name}-{text}')}.pt"

    def value(self, latents: torch.Tensor) -> object:
        return latents


def _writes(data: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(data)

    return write


def _md5(text: str) -> str:
    return hashlib.md5(valid_text(text).encode(), usedforsecurity=False).hexdigest()
