"""A file that changes between its header and its tensors is refused, whatever reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from sd2_clip.sd2.files.file_stamp import FileStamp

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.safetensors"
    save_file({"x": torch.ones(4096, 8)}, path)
    os.utime(path, ns=(10**18, 10**18))
    return path


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff\xff\xff\xff")


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def put_another(path: Path) -> None:
    other = path.with_name("other")
    save_file({"x": torch.zeros(4096, 8)}, other)
    other.replace(path)


CHANGES = [truncate, overwrite, grow, put_another]


def test_a_stamp_is_current_until_the_file_changes(file: Path) -> None:
    stamp = FileStamp.of(file)
    assert stamp.is_current()
    assert not replace(stamp, size=stamp.size + 1).is_current()
    assert not replace(stamp, modified_ns=0).is_current()
    file.unlink()
    assert not stamp.is_current()


@pytest.mark.parametrize("change", CHANGES)
def test_tensors_of_a_changed_file_are_not_read(change: Callable[[Path], None], file: Path) -> None:
    checkpoint = open_checkpoint(file)
    assert len(checkpoint.read_values("x")) == 4096 * 8
    change(file)
    for read in (checkpoint.read, checkpoint.read_unmapped):
        with pytest.raises(UnreadableFileError, match=r"file\.safetensors was changed after it"):
            read(["x"])
    with pytest.raises(UnreadableFileError, match="was changed after it was opened"):
        checkpoint.read_values("x")


def test_how_much_a_file_lost_is_said(file: Path) -> None:
    stamp = FileStamp.of(file)
    truncate(file)
    with pytest.raises(UnreadableFileError, match=rf"had {stamp.size:,} bytes and now has 4,096\."):
        stamp.open()


@pytest.mark.parametrize("change", [truncate, overwrite, grow])
def test_a_mapping_of_an_overwritten_file_is_refused(
    change: Callable[[Path], None], file: Path
) -> None:
    checkpoint = open_checkpoint(file)
    checkpoint.read(["x"])
    checkpoint.check_mapped()
    change(file)
    with pytest.raises(UnreadableFileError, match="was changed after it was opened"):
        checkpoint.check_mapped()


@pytest.mark.parametrize("change", [put_another, Path.unlink])
def test_a_mapping_outlives_the_name_of_its_file(
    change: Callable[[Path], None], file: Path
) -> None:
    checkpoint = open_checkpoint(file)
    tensor = checkpoint.read(["x"])["x"]
    change(file)
    checkpoint.check_mapped()
    assert bool((tensor == 1).all())


def test_what_was_read_stays_when_the_file_is_truncated(file: Path) -> None:
    tensor = open_checkpoint(file).read_unmapped(["x"])["x"]
    truncate(file)
    assert bool((tensor == 1).all())


# Each use of a mapped file, in a process of its own: touching what a file no longer has ends it.
USES = {
    "load": """
from sd2_clip.sd2.detection.read_encoder import encoder_tensors
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.files.checkpoint import open_checkpoint
checkpoint = open_checkpoint(FILE)
detection = detect(checkpoint, load_config(tiny.CONFIG))
change()
for _, tensor in encoder_tensors(checkpoint, detection):
    tensor.sum()
""",
    "encode": """
clip = load_clip(FILE, device="cpu", dtype="fp32", model_options=tiny.MODEL_OPTIONS)
clip.encode("a cat")
change()
clip.encode("a dog")
""",
    "first encode": """
clip = load_clip(FILE, device="cpu", dtype="fp32", model_options=tiny.MODEL_OPTIONS)
change()
clip.encode("a dog")
""",
    "patch": """
clip = load_clip(FILE, device="cpu", dtype="fp32", model_options=tiny.MODEL_OPTIONS)
change()
clip.add_patches({"clip_h.transformer.text_model.final_layer_norm.weight": lambda w, s: w * s})
""",
    "read again": """
clip = load_clip(FILE, device="cpu", dtype="fp16", model_options=tiny.MODEL_OPTIONS)
change()
clip.cond_stage_model.source.read()
""",
}
PROGRAM = """
import os, sys
import tiny
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.errors import UnreadableFileError
FILE = sys.argv[1]
def change():
    if sys.argv[2] == "truncated":
        os.truncate(FILE, 4096)
    else:
        with open(FILE, "r+b") as file:
            file.write(b"\\xff" * os.path.getsize(FILE))
try:
    {use}
except UnreadableFileError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows keeps mapped files from being truncated")
@pytest.mark.parametrize("how", ["truncated", "overwritten"])
@pytest.mark.parametrize("use", USES)
def test_no_use_of_a_changed_file_kills_the_process(use: str, how: str, tmp_path: Path) -> None:
    import tiny

    tiny.mapped_text_encoder(tmp_path)
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    program = PROGRAM.replace("{use}", USES[use].strip().replace("\n", "\n    "))
    path = os.pathsep.join(map(str, (tmp_path, ROOT / "tests/support")))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "tiny.safetensors"), how],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-1_000:])
    assert "tiny.safetensors was changed after it was opened" in done.stdout
