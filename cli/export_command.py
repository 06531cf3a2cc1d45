"""``sd2-clip export EMBEDDINGS OUT``: writes encoded captions in another format."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from .encode_command import Progress, add_format_arguments, chosen_format, describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "embeddings",
        metavar="EMBEDDINGS",
        help="folder that sd2-clip encode wrote as parquet or safetensors",
    )
    parser.add_argument("out", metavar="OUT", help="folder for the exported embeddings")
    add_format_arguments(parser.add_argument_group("writing embeddings"))
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(arguments: argparse.Namespace) -> int:
    from ..dataset.export_captions import export_captions

    started = time.monotonic()
    with Progress() as progress:
        summary = export_captions(
            arguments.embeddings, arguments.out, chosen_format(arguments), progress=progress
        )
    if arguments.json:
        counts = asdict(summary)
        print(json.dumps({**counts.pop("counts"), **counts}))
    else:
        print(f"{arguments.out}\n{describe(summary, time.monotonic() - started, 'exported')}")
    return 0
