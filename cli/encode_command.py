"""``sd2-clip encode CAPTIONS OUT``: encodes the captions of a data set."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from .path_argument import path_argument

if TYPE_CHECKING:
    from ..dataset.encode_captions import Engine
    from ..dataset.finish import Summary
    from ..dataset.formats import Format
    from ..dataset.leases import Part

# Written out: reading them from where they are defined would import torch for --help.
FORMATS = ("parquet", "safetensors", "mds", "webdataset", "simpletuner", "threestudio")
DTYPES = ("fp16", "bf16", "fp32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "captions",
        metavar="CAPTIONS",
        type=os.path.expanduser,
        help="a file, a folder, a pattern ('data/*.parquet') or - (lines of standard input); text, "
        "JSON lines, JSON, CSV, TSV, parquet, Arrow, tars of webdataset or img2dataset, or a "
        "folder with a text beside each picture; on a disk or an object store (s3://, gs://, hf://)",
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=os.path.expanduser,
        help="folder for the embeddings; fragments that it already contains are not encoded again",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=path_argument,
        required=True,
        help="a file or folder that contains SD2's text encoder",
    )
    reading = parser.add_argument_group("reading captions")
    reading.add_argument(
        "--column",
        metavar="NAME",
        help="column of the captions, or a.b for a field of a column (default: caption, text or "
        "prompt, in any capitals)",
    )
    reading.add_argument(
        "--key",
        metavar="NAME",
        help="column that identifies each row (default: file and row number)",
    )
    reading.add_argument(
        "--captions",
        dest="choice",
        choices=("first", "all", "random"),
        default="first",
        help="which one of a list of captions to encode (default: first)",
    )
    reading.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of --captions random (default: 0)"
    )
    reading.add_argument(
        "--no-header",
        action="store_true",
        help="CSV and TSV files do not begin with column names; columns are 1, 2, …",
    )
    reading.add_argument(
        "--caption-extension",
        metavar="EXT",
        help="ending of the texts beside pictures (default: .txt or .caption)",
    )
    reading.add_argument(
        "--caption-lines",
        choices=("all", "first"),
        default="all",
        help="which lines of a text beside a picture are its caption (default: all)",
    )
    encoding = parser.add_argument_group("encoding")
    encoding.add_argument(
        "--layer",
        choices=("penultimate", "last", "hidden"),
        default="penultimate",
        help="layer of the encoder (default: penultimate, as SD2 was trained)",
    )
    encoding.add_argument(
        "--layer-idx", metavar="N", type=int, help="with --layer hidden: -24 (first) to -1 (last)"
    )
    encoding.add_argument(
        "--tokenizer",
        choices=("openclip", "diffusers"),
        default="openclip",
        help="how '!' is read: as OpenCLIP, with which SD2 was trained, or as padding, as by "
        "diffusers' pipelines (default: openclip)",
    )
    encoding.add_argument("--pooled", action="store_true", help="store the pooled vectors too")
    encoding.add_argument(
        "--store", choices=DTYPES, default="fp16", help="dtype of the embeddings (default: fp16)"
    )
    encoding.add_argument(
        "--dtype",
        choices=("auto", *DTYPES),
        default="auto",
        help="dtype of the weights (default: auto, fp16 on a GPU and fp32 on the CPU)",
    )
    encoding.add_argument("--device", default="auto", help="auto, cpu or gpu:N (default: auto)")
    encoding.add_argument(
        "--batch-size",
        metavar="N",
        type=int,
        help="captions encoded at a time (default: 32 on the CPU, 128 on a GPU)",
    )
    encoding.add_argument(
        "--dedup",
        choices=("fragment", "global"),
        default="fragment",
        help="encode equal captions once in each file, or once in the whole data set: into "
        "OUT/embeddings, with a table of all keys in OUT/keys (default: fragment)",
    )
    running = parser.add_argument_group("where to encode")
    running.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this process, or the machines of a Ray cluster (default: local)",
    )
    running.add_argument(
        "--address",
        metavar="HOST",
        help="address of the Ray cluster (default: RAY_ADDRESS, else a cluster on this machine)",
    )
    running.add_argument(
        "--workers", metavar="N", type=int, default=1, help="Ray workers at most (default: 1)"
    )
    running.add_argument(
        "--gpus",
        metavar="F",
        type=float,
        help="GPUs of a Ray worker; 0.5 puts two on a GPU (default: 1 if the cluster has GPUs)",
    )
    writing = parser.add_argument_group("writing embeddings")
    add_format_arguments(writing)
    writing.add_argument(
        "--shard-size",
        metavar="N",
        type=int,
        help="rows of the input for each file (default: 1000; mds 800, threestudio 200)",
    )
    writing.add_argument(
        "--part",
        metavar="I/N",
        default="1/1",
        help="encode the I-th of N parts; start one process for each, on any machine, with the "
        "same OUT",
    )
    writing.add_argument(
        "--verify", action="store_true", help="read all files again and compare their digests"
    )
    writing.add_argument(
        "--prune", action="store_true", help="remove files that are not in the finished manifest"
    )
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def add_format_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options that say in which format embeddings are written."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="parquet",
        help="format of the files (default: parquet)",
    )
    parser.add_argument(
        "--layout",
        choices=("tensor", "nested"),
        default="tensor",
        help="parquet: embeddings as Arrow tensors, or as nested lists, which datasets reads "
        "(default: tensor)",
    )
    parser.add_argument(
        "--token-ids", action="store_true", help="parquet, safetensors: store the token ids too"
    )

    parser.add_argument(
        "--mds-keys",
        choices=("latents", "new"),
        default="latents",
        help="mds: caption_latents in fp16, or caption_CLIP_LATENTS and its mask and pooled vector "
        "in fp32, as Mosaic's later scripts have them (default: latents)",
    )
    parser.add_argument(
        "--model-name",
        metavar="NAME",
        default="",
        help="threestudio: its pretrained_model_name_or_path, which is part of the file names",
    )


def chosen_format(arguments: argparse.Namespace) -> Format:
    """Build the format with its options. Raises ``OptionError`` for one that it does not have."""
    from ..dataset.formats import make_format

    names = ("layout", "token_ids", "mds_keys", "model_name")
    return make_format(arguments.format, **{name: getattr(arguments, name) for name in names})


def run(arguments: argparse.Namespace) -> int:
    from ..dataset.caption_encoder import CaptionEncoder
    from ..dataset.encode_captions import encode_captions
    from ..dataset.encode_distinct import encode_distinct
    from ..dataset.inputs.captions import ReadOptions

    started = time.monotonic()
    encoder = CaptionEncoder(
        arguments.checkpoint,
        device=arguments.device,
        dtype=arguments.dtype,
        layer=arguments.layer,
        layer_idx=arguments.layer_idx,
        store=arguments.store,
        pooled=arguments.pooled,
        tokenizer=arguments.tokenizer,
        batch_size=arguments.batch_size,
    )
    encode = encode_distinct if arguments.dedup == "global" else encode_captions
    with Progress() as progress:
        summary = encode(
            arguments.captions,
            arguments.out,
            encoder,
            chosen_format(arguments),
            read=ReadOptions(
                column=arguments.column,
                key_column=arguments.key,
                captions=arguments.choice,
                seed=arguments.seed,
                header=not arguments.no_header,
                caption_extension=arguments.caption_extension,
                caption_lines=arguments.caption_lines,
            ),
            fragment_size=arguments.shard_size,
            part=parse_part(arguments.part),
            engine=_engine(arguments),
            verify=arguments.verify,
            prune=arguments.prune,
            progress=progress,
        )
    if arguments.json:
        counts = asdict(summary)
        print(json.dumps({**counts.pop("counts"), **counts}))
    else:
        print(f"{arguments.out}\n{describe(summary, time.monotonic() - started)}")
    return 0


def _engine(arguments: argparse.Namespace) -> Engine:
    if arguments.engine == "local":
        from ..dataset.local_engine import LocalEngine

        return LocalEngine()
    from ..dataset.ray_engine import RayEngine

    return RayEngine(arguments.address, workers=arguments.workers, gpus=arguments.gpus)


def parse_part(text: str) -> Part:
    """Parse ``I/N``."""
    from ..dataset.leases import Part
    from ..sd2.errors import OptionError

    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if match is None:
        raise OptionError(
            f"--part {text}: expected two numbers, such as 1/4 for the first of four."
        )
    return Part(int(match[1]), int(match[2]))


def describe(summary: Summary, seconds: float, done: str = "encoded") -> str:
    """Format the counts, a line for each thing that a trainer should know."""
    counts = summary.counts
    rate = f" ({summary.encoded / seconds:.1f} a second)" if summary.encoded else ""
    captions = f"captions: {counts.captions:,}"
    if summary.keys is not None:
        captions = f"captions: {summary.keys:,}, distinct: {counts.captions:,}"
    lines = [
        f"{captions} in {summary.fragments:,} files",
        f"{done} now: {summary.encoded:,} in {seconds:.1f} s{rate}",
    ]
    if counts.truncated:
        lines.append(
            f"cut after 75 tokens: {counts.truncated:,}; the longest has {counts.longest:,}"
        )
    if counts.failed:
        lines.append(f"left out, because the download of the picture failed: {counts.failed:,}")
    for name, count in summary.left_out.items():
        lines.append(f"left out: {count:,} {name.replace('_', ' ')}")
    if summary.missing:
        lines.append(f"files of other parts that are not done yet: {summary.missing:,}")
    if summary.pruned:
        lines.append(f"removed files of an earlier input: {summary.pruned:,}")
    elif summary.stale_files:
        lines.append(f"files of an earlier input: {summary.stale_files:,} (--prune removes them)")
    return "\n".join(lines)


class Progress:
    """Shows on a terminal how many captions are encoded, with rate and time left."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(unit=" captions", disable=not sys.stderr.isatty())

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, summary: Summary, rows: int) -> None:
        self._bar.total = rows
        self._bar.update(summary.encoded - self._bar.n)
