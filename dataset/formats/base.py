"""What every output format does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from ..encoded_rows import EncodedRows, OutputFile
from ..inputs.captions import Caption

if TYPE_CHECKING:
    from ..manifest import Sidecar
    from ..storage import Folder


@dataclass(frozen=True)
class FormatOptions:
    """Options of the formats; a format takes some and refuses the others."""

    layout: str = "tensor"
    """parquet: tensor or nested."""
    token_ids: bool = False
    """parquet and safetensors: store the 77 token ids of each caption."""
    mds_keys: str = "latents"
    """mds: latents or new."""
    model_name: str = ""
    """threestudio: its ``pretrained_model_name_or_path``."""

    def as_json(self) -> dict[str, Any]:
        """Return the options that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }


class Format:
    """Writes the encoded captions of a fragment."""

    name: ClassVar[str]
    options: ClassVar[tuple[str, ...]] = ()
    """Names of the options that it takes."""
    rows: ClassVar[int] = 1000
    """Captions of a fragment, unless the user says how many."""

    needs_encoder: ClassVar[bool] = False
    """Whether it has embeddings of more texts than the captions."""
    per_fragment: ClassVar[bool] = True
    """Whether a fragment has one file of its own, which names it."""

    def __init__(self, options: FormatOptions) -> None:
        self.chosen = options

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ``OptionError`` if the format cannot hold embeddings of these settings."""

    def expand(self, captions: Sequence[Caption]) -> Sequence[Caption]:
        """Return the captions to encode, of those of a fragment."""
        return captions

    def files(
        self, rows: EncodedRows, stem: str, settings: Mapping[str, Any]
    ) -> Iterator[OutputFile]:
        """Return the files of a fragment, in order; most formats have one, ``stem`` + ending."""
        raise NotImplementedError

    def finish(self, out: Folder, sidecars: Sequence[Sidecar], settings: Mapping[str, Any]) -> None:
        """Write what the format needs beside the files of all fragments."""
