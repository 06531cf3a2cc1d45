"""The options of Encode SD2 Text as options of a command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..clip.encode_options import ENCODE_OPTIONS, Choice, EncodeOptions
from .path_argument import path_argument

if TYPE_CHECKING:
    from ..host.interface import Clip


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of ``EncodeOptions``, named alike."""
    group = parser.add_argument_group("encoding, as the node Encode SD2 Text")
    for name, option in ENCODE_OPTIONS.items():
        if isinstance(option, Choice):
            group.add_argument(flag_of(name), choices=option.choices, help=help_of(name))
        else:
            group.add_argument(flag_of(name), metavar="N", type=int, help=help_of(name))


def add_embeddings_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folders of textual inversions."""
    parser.add_argument(
        "--embeddings",
        metavar="DIR",
        type=path_argument,
        action="append",
        default=[],
        help="a folder of textual inversions, for embedding:NAME; repeatable",
    )


def add_lora_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option for LoRA files."""
    parser.add_argument(
        "--lora",
        metavar="FILE[:STRENGTH]",
        type=_lora,
        action="append",
        default=[],
        help="a LoRA whose text encoder part is applied, with strength 1 if none is given; "
        "repeatable",
    )


def _lora(text: str) -> tuple[Path, float]:
    file, _, strength = text.rpartition(":")
    try:
        return path_argument(file), float(strength)
    except ValueError:
        return path_argument(text), 1.0


def with_loras(clip: Clip, arguments: argparse.Namespace) -> Clip:
    """Apply the LoRAs of ``--lora`` in order, and print to stderr what was applied."""
    from ..clip.apply_lora import apply_lora

    for file, strength in arguments.lora:
        clip, info = apply_lora(clip, file, strength)
        print(info, file=sys.stderr)
    return clip


def report_lines(report: str) -> list[str]:
    """Return the lines of a report without those on ignored embeddings: they are logged."""
    return [line for line in report.splitlines() if not line.startswith("ignored: ")]


def flag_of(name: str) -> str:
    """Return the option of the command for a field of ``EncodeOptions``."""
    return f"--{name.replace('_', '-')}"


def help_of(name: str) -> str:
    """Return the help of that option."""
    text = f"{ENCODE_OPTIONS[name].help} (default: {getattr(EncodeOptions, name)})"
    return text.replace("%", "%%")


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options that were typed, by the names of ``EncodeOptions``."""
    given = {name: getattr(arguments, name) for name in ENCODE_OPTIONS}
    return {name: value for name, value in given.items() if value is not None}
