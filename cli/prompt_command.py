"""``sd2-clip prompt TEXT --checkpoint FILE --out FILE``: encodes a prompt for another program."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..clip.encode_options import EncodeOptions
from ..clip.fixed_prompts import PRESETS, FixedPrompt, Preset
from ..sd2.errors import OptionError, and_more
from ..sd2.files.atomic_write import check_writable, write_safetensors, write_torch_file
from .encode_arguments import (
    add_embeddings_argument,
    add_encode_arguments,
    add_lora_argument,
    flag_of,
    given_options,
    report_lines,
    with_loras,
)
from .path_argument import path_argument

if TYPE_CHECKING:
    from ..host.interface import Clip

SUFFIXES = (".safetensors", ".pt")

DEFAULT_KEY = "prompt_embeds"

FOR_COMFYUI = "comfyui"
"""Not a preset: the prompt is the user's, and the file has the format of Save SD2 Conditioning."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "text", metavar="TEXT", nargs="?", help="the prompt; may be empty, or left out with --for"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=path_argument,
        required=True,
        help="a file or folder that contains SD2's text encoder",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=path_argument,
        required=True,
        help="the file to write, .safetensors or .pt",
    )
    parser.add_argument(
        "--for",
        dest="preset",
        choices=(*PRESETS, FOR_COMFYUI),
        help="write the fixed prompts of this program, as it expects them; comfyui: write TEXT for "
        "Load SD2 Conditioning",
    )
    parser.add_argument(
        "--key",
        metavar="NAME",
        help=f"name of the tensor (default: {DEFAULT_KEY}; without it, a .pt file is the tensor "
        "itself)",
    )
    parser.add_argument(
        "--dtype",
        choices=("fp32", "fp16", "bf16"),
        help="dtype of the tensor (default: fp32, or what the program of --for expects)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or gpu:N (default: auto)")
    add_embeddings_argument(parser)
    add_lora_argument(parser)
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    add_encode_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    if out.suffix not in SUFFIXES:
        raise OptionError(f"{out}: the file name must end in {' or '.join(SUFFIXES)}.")
    if out.exists() and not arguments.force:
        raise OptionError(f"{out} already exists. Choose another name, or add --force.")
    if arguments.preset == FOR_COMFYUI:
        _check_for_comfyui(arguments)
        check_writable(out.parent)
        return _write_for_comfyui(arguments)
    wanted = _wanted(arguments)
    check_writable(out.parent)

    from ..clip.encode_text import encode_text
    from ..clip.load_clip import parse_dtype
    from ..clip.prompt_embeds import only_tensor
    from ..clip.provenance import RECORD_KEY, RECORDS_KEY, complete_record

    clip = _load(arguments)
    dtype = parse_dtype(wanted.dtype)
    options = given_options(arguments)
    tensors, records = {}, {}
    for prompt in wanted.prompts:
        encoded = encode_text(clip, prompt.text, **{**options, "padding": prompt.padding})
        cond = only_tensor(prompt.text, encoded.conditioning)
        tensors[prompt.key] = cond.to("cpu", dtype).contiguous()
        records[prompt.key] = json.loads(complete_record(encoded.conditioning[0][1][RECORD_KEY]))
        print(*report_lines(encoded.report), sep="\n", file=sys.stderr)
    is_bare = wanted.is_bare and out.suffix == ".pt"
    if out.suffix == ".pt":
        write_torch_file(out, next(iter(tensors.values())) if is_bare else tensors)
    else:
        about = {key: text.format(dtype=wanted.dtype) for key, text in wanted.metadata.items()}
        about |= {"format": "pt", RECORDS_KEY: json.dumps(records)}
        write_safetensors(out, tensors, about)
    for key, tensor in tensors.items():
        name = "" if is_bare else f" {key}"
        print(f"{out}:{name} {list(tensor.shape)} {wanted.dtype}")
    return 0


def _load(arguments: argparse.Namespace) -> Clip:
    from ..clip.load_clip import load_clip

    clip = load_clip(
        arguments.checkpoint,
        embedding_directory=arguments.embeddings,
        device=arguments.device,
        dtype="fp32",
    )
    return with_loras(clip, arguments)


def _check_for_comfyui(arguments: argparse.Namespace) -> None:
    if arguments.text is None:
        raise OptionError(f'TEXT is missing. Give a prompt to --for {FOR_COMFYUI} ("" is empty).')
    if arguments.out.suffix != ".safetensors":
        raise OptionError(f"{arguments.out}: --for {FOR_COMFYUI} writes a .safetensors file.")
    if arguments.key is not None or arguments.dtype is not None:
        raise OptionError(f"--for {FOR_COMFYUI} decides --key and --dtype itself. Leave them out.")


def _write_for_comfyui(arguments: argparse.Namespace) -> int:
    """Write what Save SD2 Conditioning writes."""
    from ..clip.conditioning_file import save_conditioning
    from ..clip.encode_text import encode_text

    encoded = encode_text(_load(arguments), arguments.text, **given_options(arguments))
    print(*report_lines(encoded.report), sep="\n", file=sys.stderr)
    save_conditioning(arguments.out, encoded.conditioning)
    shapes = ", ".join(str(list(cond.shape)) for cond, _ in encoded.conditioning)
    print(f"{arguments.out}: conditioning {shapes} for Load SD2 Conditioning")
    return 0


def _wanted(arguments: argparse.Namespace) -> Preset:
    """Return what to write: a preset, or the one prompt that was typed."""
    options = given_options(arguments)
    if arguments.preset is None:
        if arguments.text is None:
            raise OptionError(
                'TEXT is missing. Give a prompt ("" for the empty one), or --for PROGRAM.'
            )
        padding = options.get("padding", EncodeOptions.padding)
        prompt = FixedPrompt(arguments.key or DEFAULT_KEY, arguments.text, padding)
        dtype = arguments.dtype or "fp32"
        return Preset("", (prompt,), dtype, "", is_bare=arguments.key is None)
    preset = PRESETS[arguments.preset]
    if arguments.text and [arguments.text] != [prompt.text for prompt in preset.prompts]:
        raise OptionError(
            f"--for {arguments.preset} writes fixed prompts, and TEXT is another one. Leave out "
            "TEXT, or leave out --for and give --key."
        )
    fixed = [*options, *(["key"] if arguments.key is not None else [])]
    if fixed:
        flags = and_more([flag_of(name) for name in fixed])
        raise OptionError(f"--for {arguments.preset} decides {flags} itself. Leave that out.")
    return replace(preset, dtype=arguments.dtype or preset.dtype)
