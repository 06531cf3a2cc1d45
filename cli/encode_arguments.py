"""The options of Encode SD2 Text as options of a command."""

from __future__ import annotations

import argparse
from typing import Any

from ..clip.encode_options import ENCODE_OPTIONS, Choice, EncodeOptions
from .path_argument import path_argument


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
