"""``sd2-clip encode CAPTIONS OUT``: the embeddings of a data set's captions."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from .path_argument import path_argument

if TYPE_CHECKING:
    from ..dataset.shards import Part, Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "captions",
        metavar="CAPTIONS",
        type=path_argument,
        help="a .txt (a caption a line), .jsonl, .csv, .tsv or .parquet, a folder of such tables, "
        "or a folder with a .txt for each picture",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=path_argument,
        help="the folder for the embeddings; what is there already is not done again",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=path_argument,
        required=True,
        help="any file or folder with SD2's text encoder",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="where captions are (caption, text, prompt or TEXT)"
    )
    parser.add_argument("--key", metavar="NAME", help="what to know rows by (their numbers)")
    parser.add_argument(
        "--layer", default="penultimate", help="penultimate (SD2's), last, or hidden"
    )
    parser.add_argument(
        "--layer-idx", metavar="N", type=int, help="with --layer hidden: -24 (first) to -1 (last)"
    )
    parser.add_argument("--pooled", action="store_true", help="store the pooled vectors too")
    parser.add_argument("--store", default="fp16", help="dtype of the embeddings: fp16, bf16, fp32")
    parser.add_argument("--dtype", default="auto", help="dtype of the weights: fp16, bf16, fp32")
    parser.add_argument("--device", default="auto", help="auto, cpu or gpu:N")
    parser.add_argument(
        "--shard-size", metavar="N", type=int, default=256, help="captions in a file (256)"
    )
    parser.add_argument(
        "--part",
        metavar="I/N",
        default="1/1",
        help="do the I-th of N parts, one for each process or machine that writes to OUT",
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..dataset.captions import CaptionsError, count_captions, read_captions
    from ..dataset.encoder import CaptionEncoder
    from ..dataset.shards import encode_captions

    part = parse_part(arguments.part)
    source: Path = arguments.captions
    out: Path = arguments.out
    inside = source.is_dir() and out.resolve().is_relative_to(source.resolve())
    if inside or source.resolve().is_relative_to(out.resolve()):
        raise CaptionsError(
            f"{out if inside else source} lies in {source if inside else out}, so embeddings and "
            "captions would be mixed. Choose another folder."
        )
    # The first caption comes before the checkpoint: a wrong file is said at once.
    captions = read_captions(source, arguments.column, arguments.key)
    first = next(captions, None)
    if first is None:
        raise CaptionsError(f"{source} holds no captions.")
    encoder = CaptionEncoder(
        arguments.checkpoint,
        device=arguments.device,
        dtype=arguments.dtype,
        layer=arguments.layer,
        layer_idx=arguments.layer_idx,
        store=arguments.store,
        pooled=arguments.pooled,
    )
    started = time.monotonic()
    with _Progress(count_captions(source)) as progress:
        summary = encode_captions(
            chain([first], captions),
            out,
            encoder,
            shard_size=arguments.shard_size,
            part=part,
            progress=progress,
        )
    if arguments.json:
        print(json.dumps(asdict(summary)))
    else:
        print(f"{out}\n{describe(summary, time.monotonic() - started)}")
    return 0


def parse_part(text: str) -> Part:
    from ..dataset.shards import Part
    from ..sd2.errors import OptionError

    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None:
        raise OptionError(f"--part {text}: give two numbers, such as 1/4 for the first of four.")
    return Part(int(match[1]), int(match[2]))


def describe(summary: Summary, seconds: float) -> str:
    """The counts, a line for each thing that a trainer should know."""
    rate = f" ({summary.encoded / seconds:.1f} a second)" if summary.encoded else ""
    lines = [
        f"captions: {summary.captions:,}; different ones, with the empty one: "
        f"{summary.distinct:,}; shards: {summary.shards:,}",
        f"encoded now: {summary.encoded:,} in {seconds:.1f} s{rate}",
    ]
    if summary.truncated:
        lines.append(
            f"cut after 75 tokens: {summary.truncated:,}; the longest has {summary.longest:,}"
        )
    if summary.missing:
        lines.append(f"shards of other parts that are not there yet: {summary.missing:,}")
    if summary.left_over:
        lines.append(f"shards of earlier captions that nothing needs now: {summary.left_over:,}")
    return "\n".join(lines)


class _Progress:
    """Counts captions on a terminal, with rate and time left."""

    def __init__(self, total: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit=" captions", disable=not sys.stderr.isatty())

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, summary: Summary) -> None:
        self._bar.update(summary.captions - self._bar.n)
        self._bar.set_postfix(encoded=summary.encoded)
