"""``sd2-clip verify FILE``: tells SD2's own text encoder from fine-tuned and other ones."""

from __future__ import annotations

import argparse

from .path_argument import path_argument

STATUS = {"genuine": 0, "fine-tuned": 3, "other": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        type=path_argument,
        help="a file or folder that contains SD2's text encoder",
    )
    parser.epilog = (
        "Exit status: 0 for SD2's own weights, 3 for fine-tuned ones, 1 for anything else."
    )


def run(arguments: argparse.Namespace) -> int:
    from ..clip.verify_encoder import verify_encoder

    verification = verify_encoder(arguments.file)
    print(verification.describe())
    return STATUS[verification.verdict]
