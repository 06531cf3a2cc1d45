"""``sd2-clip convert FILE OUT``: writes the text encoder of a file for another program."""

from __future__ import annotations

import argparse
import sys

from ..sd2.detection.detect import detect
from ..sd2.detection.layouts import LAYOUTS, VARIANTS
from ..sd2.files.checkpoint import open_checkpoint
from .path_argument import path_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        type=path_argument,
        help="a file or folder that contains SD2's text encoder",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=path_argument,
        help="the .safetensors file to write; with --layout diffusers, the folder",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="comfy",
        help="comfy: transformers' names, all layers of the file; diffusers: a folder with "
        "text_encoder and tokenizer, 23 layers; openclip: OpenCLIP's names, needs 24 layers "
        "(default: comfy)",
    )
    parser.add_argument(
        "--variant",
        choices=VARIANTS,
        help="with --layout diffusers: write model.VARIANT.safetensors, in that dtype",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "fp32", "fp16", "bf16"),
        default="auto",
        help="dtype of the result (default: auto, the dtype in the file)",
    )
    parser.add_argument(
        "--force", action="store_true", help="overwrite the files to write if they exist"
    )


def run(arguments: argparse.Namespace) -> int:
    from ..clip.convert_encoder import convert_encoder

    detect(arguments.file)  # what is wrong with it is told before what is wrong with OUT
    detection, weights = convert_encoder(
        arguments.file,
        arguments.out,
        layout=arguments.layout,
        dtype=arguments.dtype,
        variant=arguments.variant,
        overwrite=arguments.force,
    )
    print(detection.describe(), file=sys.stderr)
    dtypes = {tensor.dtype for tensor in open_checkpoint(weights).tensors.values()}
    if any(dtype.startswith("F8") for dtype in dtypes):
        print(
            "Note:         fp8 was kept, which few programs load; --dtype fp16 widens it",
            file=sys.stderr,
        )
    size = weights.stat().st_size / 1e6
    print(f"{arguments.out}: {' and '.join(sorted(dtypes))}, {size:,.1f} MB")
    return 0
