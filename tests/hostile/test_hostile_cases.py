"""Small files that once crashed, hung or printed escapes, through the command that reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOSTILE = ROOT / "tests/data/hostile"

pytestmark = pytest.mark.slow


def run(tmp_path: Path, *words: object) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    return subprocess.run(
        [sys.executable, "-m", "sd2_clip", *map(str, words)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", HOSTILE / "title_ansi.json"), r"(\x1b]0;PWNED\x07\x1b[2Jgone)"),
        (
            ("run", HOSTILE / "ui_negative_slot.json"),
            "a link cannot be read: [2, 2, -5, 1, 0, '*']",
        ),
        (("demo", "--checkpoint", "/dev/zero"), "/dev/zero"),
        (("run", "pipe"), "pipe is a named pipe, not a file"),
        (("run", "folder"), "folder is a folder, not a file"),
        (("run", "/dev/zero"), "/dev/zero is a device, not a file"),
        (("run", "sparse"), "too large"),
        (("run", "w.json", "--models", HOSTILE / "laughs.yaml"), "laughs.yaml: too many values"),
        (("run", "w.json", "--models", HOSTILE / "merge_bomb.yaml"), "yaml: too many values"),
        (("run", "w.json", "--models", HOSTILE / "baddate.yaml"), "not readable as YAML"),
        (("run", "w.json", "--models", "pipe"), "pipe is a named pipe, not a file"),
        (("run", "w.json", "--models", "/dev/zero"), "/dev/zero is a device, not a file"),
        (("run", "w.json", "--output", "sparse"), "be written to"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value))[-40:],
)
def test_one_sentence_and_no_escapes(
    words: tuple[object, ...], message: str, tmp_path: Path
) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "w.json").write_text('{"1": {"class_type": "LoadSD2CLIP", "inputs": {}}}')
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    done = run(tmp_path, *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert all(len(line) <= 1_000 for line in done.stderr.splitlines())
