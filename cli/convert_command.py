"""``sd2-clip convert FILE OUT.safetensors``: extracts the text encoder of a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..sd2.files.atomic_write import check_writable, write_safetensors
from .path_argument import path_argument

if TYPE_CHECKING:
    import torch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        type=path_argument,
        help="a file or folder that contains SD2's text encoder",
    )
    parser.add_argument(
        "out", metavar="OUT.safetensors", type=path_argument, help="the file to write"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="dtype of the result (default: auto, the dtype in the file)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT if it exists")


def run(arguments: argparse.Namespace) -> int:
    from ..clip.load_clip import parse_dtype
    from ..sd2.detection.read_encoder import read_encoder
    from ..sd2.errors import OptionError

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        # Query, key and value of OpenCLIP files share memory, which safetensors rejects.
        return tensor.to(dtype or tensor.dtype, copy=True)

    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise OptionError(f"{out}: the output file name must end in .safetensors.")
    if out.exists() and not arguments.force:
        raise OptionError(f"{out} already exists. Choose another name, or add --force.")
    dtype = parse_dtype(arguments.dtype)

    check_writable(out.parent)
    checkpoint, detection, tensors = read_encoder(arguments.file, copy)
    checkpoint.check_crcs(source.key for source in detection.sources.values())
    write_safetensors(out, tensors, {**checkpoint.metadata, "format": "pt"})
    print(detection.describe(), file=sys.stderr)
    print(out)
    return 0
