"""``sd2-clip convert FILE OUT.safetensors``: just the text encoder, safely."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..sd2.files.atomic_write import check_writable, write_safetensors
from .path_argument import path_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        type=path_argument,
        help="any file or folder with SD2's text encoder",
    )
    parser.add_argument("out", metavar="OUT.safetensors", type=path_argument)
    parser.add_argument("--dtype", default="auto", help="fp32, fp16 or bf16; auto keeps the file's")
    parser.add_argument("--force", action="store_true", help="overwrite OUT if it exists")


def run(arguments: argparse.Namespace) -> int:
    from ..clip.load_clip import parse_dtype, read_state_dict
    from ..sd2.errors import OptionError

    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise OptionError(f"{out}: the result is a safetensors file; end its name so.")
    if out.exists() and not arguments.force:
        raise OptionError(f"{out} exists already. Choose another name, or add --force.")
    dtype = parse_dtype(arguments.dtype)

    check_writable(out.parent)
    checkpoint, detection, state_dict = read_state_dict(
        arguments.file, lambda tensor: tensor.to(dtype or tensor.dtype)
    )
    # Copies: query, key and value of OpenCLIP's files share memory, which safetensors refuses.
    tensors = {name: tensor.clone() for name, tensor in state_dict.items()}
    write_safetensors(out, tensors, {**checkpoint.metadata, "format": "pt"})
    print(detection.describe(), file=sys.stderr)
    print(out)
    return 0
