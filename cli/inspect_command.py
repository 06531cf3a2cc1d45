"""``sd2-clip inspect FILE …``: describes what model files hold."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from ..host.model_folders import walk
from ..sd2.detection.detect import detect
from ..sd2.detection.detection import Detection
from ..sd2.errors import NotSD2Error, SD2ClipError, plain_text
from ..sd2.files.file_kinds import WEIGHT_SUFFIXES
from .path_argument import path_argument

LATER_SHARD = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.")

OF_TRAINERS = ("training_args.bin", "optimizer.bin", "scheduler.bin")
"""What trainers save beside a model."""

LONGEST_LINE = 200
"""Characters of what is said of one of several files."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        metavar="FILE",
        type=path_argument,
        nargs="+",
        help="a model file, a diffusers folder, or a folder of them; of more than one a line each",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; a list for more than one")
    parser.epilog = "Exit status: 0 if one of the files holds SD2's text encoder."


def run(arguments: argparse.Namespace) -> int:
    paths = [found for path in arguments.files for found in _models(path)]
    if len(paths) == 1:
        found = detect(paths[0])
        print(json.dumps(found.as_json(), indent=2) if arguments.json else found.describe())
        return 0
    results = [(path, _inspect(path)) for path in paths]
    if arguments.json:
        print(json.dumps([_as_json(path, result) for path, result in results], indent=2))
    else:
        for path, result in results:
            print(plain_text(f"{path}: {_verdict(path, result)}"))
    return 0 if any(isinstance(result, Detection) for _, result in results) else 1


def _models(path: Path) -> list[Path]:
    """Return *path*, or all models below it if it is a folder of several."""
    if not path.is_dir():
        return [path]
    below = list(_below(path))
    is_one = len(below) < 2 and all(model.parent == path for model in below)
    return [path] if is_one else below


def _below(folder: Path) -> Iterator[Path]:
    """Yield the model files below *folder*, and the folders of diffusers that stand for theirs."""
    for root, directories, names in walk(folder):
        if {"model_index.json", "config.json"} & set(names) or "text_encoder" in directories:
            directories.clear()
            yield Path(root)
            continue
        weights = (
            name
            for name in names
            if name.lower().endswith(WEIGHT_SUFFIXES) and name not in OF_TRAINERS
        )
        yield from (Path(root, name) for name in weights if not LATER_SHARD.search(name))


def _inspect(path: Path) -> Detection | SD2ClipError | OSError:
    try:
        return detect(path)
    except (SD2ClipError, OSError) as error:
        return error


def _verdict(path: Path, result: Detection | SD2ClipError | OSError) -> str:
    """Return one line: what the file holds, or the start of what is wrong with it."""
    if isinstance(result, Detection):
        layers = f"{result.num_layers} of {result.model_layers} layers"
        return f"SD2's text encoder: {result.layout}, {layers}, {result.dtype}"
    sentences = str(result).removeprefix(f"{path}: ").split(". ")
    said = sentences[: 2 if isinstance(result, NotSD2Error) else 1]  # none, and what it is
    return plain_text(". ".join(said).rstrip("."), LONGEST_LINE)


def _as_json(path: Path, result: Detection | SD2ClipError | OSError) -> dict[str, object]:
    if isinstance(result, Detection):
        return result.as_json()
    return {"path": str(path), "error": str(result)}
