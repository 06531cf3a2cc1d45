"""A process that is killed, and a disk that is full, leave the old file or none."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows kills in another way")

SAVE = """
import sys
from pathlib import Path
import torch
from sd2_clip.clip.conditioning_file import save_numbered
conditioning = [[torch.ones(1, 770, 1024), {"pooled_output": torch.ones(1, 1024)}]]
print("ready", flush=True)
while True:
    save_numbered(Path(sys.argv[1]), "x", conditioning, {})
"""

SET = """
import sys
from pathlib import Path
from sd2_clip.editor.settings import Settings
settings = Settings(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10**9):
    settings._merge({"number": number, "text": "x" * 100_000})
"""


CONVERT = """
import json, sys
from itertools import count
from pathlib import Path
from sd2_clip.clip.convert_encoder import convert_encoder
from sd2_clip.sd2.config import load_config
config = load_config(json.loads(Path("config.json").read_text()))
print("ready", flush=True)
for number in count():
    folder = Path(sys.argv[1]) / str(number)
    convert_encoder("encoder.safetensors", folder, layout="diffusers", config=config)
"""

PIPELINE_FILES = {
    "text_encoder/config.json", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.json",
}  # fmt: skip


def kill_at_random(script: str, tmp_path: Path, seconds: float) -> None:
    """Start a writer, and kill it after at most so many seconds of work."""
    if not (tmp_path / "sd2_clip").exists():
        (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(random.Random(seconds).uniform(0, seconds))
        writer.send_signal(signal.SIGKILL)


def check_conditioning(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:  # a 0-byte or cut file cannot be opened
            assert file.get_tensor("conditioning").shape == (1, 770, 1024)


@pytest.mark.slow
def test_killed_save_of_conditioning_leaves_whole_files(tmp_path: Path) -> None:
    for seconds in (0.05, 0.2, 0.3):
        kill_at_random(SAVE, tmp_path, seconds)
        check_conditioning(tmp_path / "out")


@pytest.mark.slow
def test_killed_conversion_leaves_no_folder_that_only_looks_complete(tmp_path: Path) -> None:
    import layouts

    layouts.save_safetensors(layouts.canonical_encoder(), tmp_path / "encoder.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(layouts.TINY_CONFIG))
    for seconds in (0.1, 1.0):
        kill_at_random(CONVERT, tmp_path, seconds)
        for folder in (tmp_path / "out").glob("*"):
            weights = folder / "text_encoder/model.safetensors"
            if weights.exists():
                with safe_open(weights, framework="pt") as file:
                    assert len(file.keys()) == 52
                assert all((folder / name).stat().st_size for name in PIPELINE_FILES)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.nightly
def test_killed_saves_of_conditioning_leave_whole_files(tmp_path: Path) -> None:
    for number in range(100):
        kill_at_random(SAVE, tmp_path, 0.01 * number)
        check_conditioning(tmp_path / "out")
        for path in (tmp_path / "out").iterdir():
            path.unlink()


@pytest.mark.nightly
def test_killed_saves_of_settings_leave_whole_settings(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    path = tmp_path / "out/comfy.settings.json"
    for number in range(100):
        kill_at_random(SET, tmp_path, 0.01 * number)
        assert not path.exists() or len(json.loads(path.read_text())["text"]) == 100_000


@pytest.mark.parametrize("call", ["fsync", "replace", "link", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_error_of_the_disk_leaves_no_part_of_a_conditioning(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from sd2_clip.clip.conditioning_file import save_numbered
    from sd2_clip.sd2.errors import SD2ClipError

    def fail(*given: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    conditioning = [[torch.ones(1, 77, 8), {}]]
    first = save_numbered(tmp_path, "x", conditioning, {})
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call == "link":  # without links, the name is taken by a rename
            assert save_numbered(tmp_path, "x", conditioning, {}).name == "x_00002_.safetensors"
            return
        with pytest.raises(SD2ClipError, match=os.strerror(number)):
            save_numbered(tmp_path, "new/x", conditioning, {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [first]


def test_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    import torch
    from sd2_clip.clip.conditioning_file import save_numbered
    from sd2_clip.sd2.errors import SD2ClipError

    (tmp_path / "file").touch()
    for prefix in ("file/x", "file/sub/x", "long" * 100 + "/x", "x" * 300):
        with pytest.raises(SD2ClipError, match="Choose another filename_prefix"):
            save_numbered(tmp_path, prefix, [[torch.ones(1, 77, 8), {}]], {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
