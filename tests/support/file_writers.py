"""All writers of files, each on a small encoder, for tests that kill them or fill their disk.

As a program it kills one of them at random moments: ``file_writers.py WRITER FOLDER KILLS SEED``.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import torch
from safetensors import safe_open

WIDE = 400_000
"""Values of a tensor that take some milliseconds to write."""


@dataclass(frozen=True)
class Writer:
    """Writes into a folder again and again, with content that differs each time."""

    write: Callable[[Path, int], object]
    check: Callable[[Path], object]
    """Raises an error for a file that is not whole."""
    names: tuple[str, ...]
    """A name of the user's file, of which one is in each message."""
    setup: Callable[[Path], object] = lambda folder: None
    """What is there before, and is not written."""


def _conditioning(folder: Path, number: int) -> None:
    from sd2_clip.clip.conditioning_file import save_numbered

    cond = torch.full((1, 77 * 5, 1024), float(number))
    save_numbered(folder, "conditioning", [[cond, {"pooled_output": cond[:, 0]}]], {})


def _source(folder: Path) -> Path:
    """A checkpoint beside the folder that is written to."""
    return folder.with_name(f"{folder.name}-source.safetensors")


def _write_source(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.float() for name, tensor in tiny.state_dict().items()}
    save_file(tensors, _source(folder))


def _convert(folder: Path, number: int) -> None:
    _convert_to(folder / "out.safetensors", number)


def _convert_to(out: Path, number: int, **options: str) -> None:
    from sd2_clip.clip.convert_encoder import convert_encoder
    from sd2_clip.sd2.config import load_config

    source = _source(out.parent)
    config = load_config(tiny.CONFIG)
    dtype = ("fp32", "fp16", "bf16")[number % 3]
    convert_encoder(source, out, dtype=dtype, config=config, overwrite=True, **options)


def _pipeline(folder: Path, number: int) -> None:
    _convert_to(folder / f"pipeline-{number // 4}", number, layout="diffusers")


def _demo(folder: Path, number: int) -> None:
    from sd2_clip.cli import demo_command

    random_weights = {"x": torch.full((WIDE,), float(number))}
    with (
        mock.patch.object(demo_command, "random_state_dict", return_value=random_weights),
        mock.patch("builtins.print"),
    ):
        demo_command.write_random_encoder(folder / "demo.safetensors")


@functools.cache
def _caption_encoder() -> Any:
    return tiny.caption_encoder()


def _write_captions(folder: Path) -> None:
    rows = "".join(f"caption number {number}\n" for number in range(40))
    _source(folder).with_suffix(".txt").write_text(rows)


def _dataset(folder: Path, number: int) -> None:
    from sd2_clip.dataset.encode_captions import encode_captions
    from sd2_clip.dataset.formats import make_format

    out = folder / f"run-{number}"
    source = str(_source(folder).with_suffix(".txt"))
    kind = ("safetensors", "parquet")[number % 2]
    encode_captions(source, str(out), _caption_encoder(), make_format(kind), fragment_size=8)


def _text(number: int) -> bytes:
    return json.dumps({"number": number, "text": "x" * WIDE}).encode()


def _workflow(folder: Path, number: int) -> None:
    from sd2_clip.sd2.files.atomic_write import write_bytes

    write_bytes(folder / "workflow.json", _text(number))  # what POST /userdata does


def _upload(folder: Path, number: int) -> None:
    from sd2_clip.editor.file_routes import _store

    _store(folder / "upload.json", _text(number), overwrite=True)


def _new_upload(folder: Path, number: int) -> None:
    from sd2_clip.editor.file_routes import _store

    _store(folder / f"new-{number // 4}.json", _text(number), overwrite=False)


def _settings(folder: Path, number: int) -> None:
    from sd2_clip.editor.settings import Settings

    Settings(folder)._merge({"number": number, "text": "x" * WIDE})


def _visible(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in folder.rglob(pattern) if not path.name.startswith("."))


def _check_safetensors(folder: Path) -> None:
    for path in _visible(folder, "*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 not a dict
                tensor = file.get_tensor(name)
                if path.name.startswith(("conditioning", "demo")):
                    assert bool((tensor == tensor.flatten()[0]).all()), path  # of one save


def _check_pipelines(folder: Path) -> None:
    """A folder that has weights is complete."""
    _check_safetensors(folder)
    for weights in _visible(folder, "model.safetensors"):
        with safe_open(weights, framework="pt") as file:
            assert len(file.keys()) == 52
        others = ("text_encoder/config.json", *(f"tokenizer/{name}" for name in TOKENIZER_FILES))
        for name in others:
            assert (weights.parents[1] / name).stat().st_size, name


def _check_json(folder: Path) -> None:
    for path in _visible(folder, "*.json"):
        found = json.loads(path.read_bytes())
        assert "text" not in found or len(found["text"]) == WIDE, path


def _check_dataset(folder: Path) -> None:
    import pyarrow.parquet as pq

    _check_safetensors(folder)
    _check_json(folder)
    for path in _visible(folder, "*.parquet"):
        assert len(pq.read_table(path))


TOKENIZER_FILES = (
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "vocab.json",
)

WRITERS = {
    "conditioning": Writer(_conditioning, _check_safetensors, ("conditioning",)),
    "convert": Writer(_convert, _check_safetensors, ("out.safetensors",), _write_source),
    "pipeline folder": Writer(_pipeline, _check_pipelines, ("pipeline-",), _write_source),
    "dataset": Writer(
        _dataset, _check_dataset, ("plan.json", "run-", "captions-", ".json"), _write_captions
    ),
    "demo": Writer(_demo, _check_safetensors, ("demo.safetensors",)),
    "workflow": Writer(_workflow, _check_json, ("workflow.json",)),
    "upload": Writer(_upload, _check_json, ("upload.json",)),
    "new upload": Writer(_new_upload, _check_json, ("new-",)),
    "settings": Writer(_settings, _check_json, ("comfy.settings.json",)),
}


def contents(folder: Path) -> dict[str, bytes]:
    """All files that users see, and what is in them."""
    return {str(path): path.read_bytes() for path in _visible(folder, "*") if path.is_file()}


def hidden(folder: Path) -> list[str]:
    """Files that a failed write left behind; a lock file stays."""
    return [path.name for path in folder.rglob(".*") if not path.name.endswith(".lock")]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writes beyond *size* bytes of a file fail, with EFBIG: Python ignores the signal."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def kill_at_random(writer: Writer, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Fork, let it write, kill it; the number of kills, of files found whole, and what was not."""
    moments = random.Random(seed)
    torch.set_num_threads(1)  # forks of threads hang
    warm = folder.with_name("warm")
    for one in (warm, folder):
        one.mkdir(parents=True, exist_ok=True)
        writer.setup(one)
    writer.write(warm, 0)  # imports
    started = time.perf_counter()
    writer.write(warm, 1)
    longest = max(0.15, 2 * (time.perf_counter() - started))
    whole, broken = 0, []
    for attempt in range(kills):
        reader, ready = os.pipe()
        if (child := os.fork()) == 0:
            os.write(ready, b"1")
            for number in range(attempt * 1000, sys.maxsize):
                writer.write(folder, number)
        os.read(reader, 1)
        time.sleep(moments.uniform(0, longest))
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the writer failed"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(ready)
        try:
            writer.check(folder)
        except Exception as error:
            broken.append(f"{attempt}: {error!r}")
        found = contents(folder)
        whole += len(found)
        if len(found) > 20:
            for name in found:
                os.unlink(name)
    return {"kills": kills, "whole": whole, "broken": broken}


if __name__ == "__main__":
    name, folder, kills, seed = sys.argv[1:]
    report = kill_at_random(WRITERS[name], Path(folder), int(kills), int(seed))
    sys.stdout.write(json.dumps(report))
