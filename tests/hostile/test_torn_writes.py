"""A process that is killed, and a disk that is full, leave the old file or none."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from file_writers import WRITERS, Writer, contents, hidden, largest_file

ROOT = Path(__file__).parents[2]

WRITES = {"dataset": 8, "pipeline folder": 6}
"""Files that a writer writes each time, if several."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows kills in another way")


def killed(writer: str, tmp_path: Path, kills: int) -> dict[str, Any]:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    path = os.pathsep.join(map(str, (tmp_path, ROOT / "tests/support")))
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/file_writers.py", writer, "out", str(kills), "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_a_killed_writer_leaves_whole_files(writer: str, tmp_path: Path) -> None:
    need_packages(writer)
    report = killed(writer, tmp_path, 3)
    assert report["broken"] == []
    assert report["whole"]


@pytest.mark.nightly
@pytest.mark.parametrize("writer", WRITERS)
def test_a_writer_killed_at_100_moments_leaves_whole_files(writer: str, tmp_path: Path) -> None:
    need_packages(writer)
    report = killed(writer, tmp_path, 100)
    assert report["kills"] == 100
    assert report["broken"] == []
    assert report["whole"] > 50


def need_packages(writer: str) -> None:
    if writer == "dataset":
        pytest.importorskip("pyarrow")
    if writer in ("upload", "new upload", "settings"):
        pytest.importorskip("aiohttp")


def check_failure(writer: Writer, folder: Path, number: int) -> None:
    """Let a write fail; the files of the user stay as they were, and the message names one."""
    from sd2_clip.sd2.errors import SD2ClipError

    before = contents(folder)
    with pytest.raises((SD2ClipError, OSError)) as caught:  # an OSError is one sentence, too
        writer.write(folder, number)
    message = str(caught.value)
    assert any(name in message for name in writer.names), message
    assert ".partial" not in message
    assert "\n" not in message
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before
    writer.check(folder)
    assert hidden(folder) == []


def sizes_that_fail(folder: Path) -> list[int]:
    largest = max((len(data) for data in contents(folder).values()), default=0)
    return [0, 1, 100, largest // 4, largest // 2, largest - 4096, largest - 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_grow_leaves_the_old_one(name: str, tmp_path: Path) -> None:
    need_packages(name)
    writer, folder = WRITERS[name], tmp_path / "out"
    folder.mkdir()
    writer.setup(folder)
    writer.write(folder, 0)  # fp32, the largest file that convert writes
    for size in sizes_that_fail(folder):
        with largest_file(max(size, 0)):
            check_failure(writer, folder, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    need_packages(name)
    writer, folder = WRITERS[name], tmp_path / "disk/out"
    folder.parent.mkdir()
    with small_disk(folder.parent, 64 << 20):
        folder.mkdir()
        writer.setup(folder)
        writer.write(folder, 0)
        largest = max(map(len, contents(folder).values()))
        for free in (0, 4096, largest // 2, largest - 4096):
            fill(folder.parent, free)
            check_failure(writer, folder, 3000)
            (folder.parent / "filler").unlink()
        writer.write(folder, 3000)  # there is room again


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount a file system in memory; that takes a Linux and its administrator."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, free: int) -> None:
    """Fill the disk but for *free* bytes, in pages."""
    disk = os.statvfs(folder)
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(
            file.fileno(), 0, (disk.f_bavail - free // disk.f_frsize) * disk.f_frsize
        )


@pytest.mark.slow
@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("name", WRITERS)
def test_an_error_of_the_disk_leaves_the_old_file(
    name: str, number: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_packages(name)
    writer, folder = WRITERS[name], tmp_path / "out"
    folder.mkdir()
    writer.setup(folder)
    writer.write(folder, 0)
    real = getattr(os, call)

    def fail(*given: object, **named: object) -> object:
        if next(made) == failing:
            raise OSError(number, os.strerror(number))
        return real(*given, **named)

    for failing in range(1, WRITES.get(name, 1) + 1):
        made = itertools.count(1)
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            check_failure(writer, folder, 3000 + failing)


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
