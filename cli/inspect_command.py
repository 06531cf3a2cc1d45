"""``sd2-clip inspect FILE``: describes what a model file holds."""

from __future__ import annotations

import argparse
import json

from ..sd2.detection.detect import detect
from .path_argument import path_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", type=path_argument, help="a model file or a diffusers folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    found = detect(arguments.file)
    print(json.dumps(found.as_json(), indent=2) if arguments.json else found.describe())
    return 0
