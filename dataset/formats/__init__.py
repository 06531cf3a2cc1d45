"""The file formats of encoded captions, by the name that ``--format`` has."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...sd2.errors import OptionError
from .base import Format, FormatOptions
from .mds import MDS
from .parquet import Parquet
from .safetensors import Safetensors
from .trainer_caches import SimpleTuner, Threestudio
from .webdataset import WebDataset

FORMATS: dict[str, type[Format]] = {
    one.name: one for one in (Parquet, Safetensors, MDS, WebDataset, SimpleTuner, Threestudio)
}

__all__ = ["FORMATS", "Format", "FormatOptions", "make_format"]


def make_format(name: str = "parquet", **options: Any) -> Format:
    """Build a format. Raises ``OptionError`` for an option that it does not have."""
    if name not in FORMATS:
        raise OptionError(f"format {name!r} is unknown. Choose one of {', '.join(FORMATS)}.")
    kind = FORMATS[name]
    chosen = FormatOptions(**options)
    for field in fields(chosen):
        if getattr(chosen, field.name) != field.default and field.name not in kind.options:
            takers = [one.name for one in FORMATS.values() if field.name in one.options]
            raise OptionError(
                f"--{field.name.replace('_', '-')} is an option of --format "
                f"{' and '.join(takers)}, not of {name}."
            )
    return kind(chosen)
