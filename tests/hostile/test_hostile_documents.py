"""Hostile workflows, PNGs and YAML files are read or refused in one sentence, within the limits.

The quick part reads each tenth of the many; all of them: ``pytest tests/hostile``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of this kind")


def run_child(tmp_path: Path, generator: str, part: int, of: int) -> dict[str, Any]:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    (tmp_path / "files").mkdir()
    child = ROOT / "tests/support/hostile_child.py"
    done = subprocess.run(
        [sys.executable, str(child), generator, str(tmp_path / "files"), str(part), str(of)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def check(report: dict[str, Any], part: int) -> None:
    raised = {name: one["raised"] for name, one in report["outcomes"].items() if "raised" in one}
    assert not raised, f"{len(raised)} raised: {list(raised.items())[:3]}"
    for name, one in report["outcomes"].items():
        for line in one["said"].split("\n"):
            assert len(line) <= 1_000, name
            assert line.isprintable() or "\t" in line, f"{name}: {line!r}"
    assert report["files"] == [f"hostile-{part}"]


def check_memory(report: dict[str, Any]) -> None:
    most = 256 * MIB + 4 * report["largest"]
    worst = sorted((one["more_memory"], name) for name, one in report["outcomes"].items())[-3:]
    assert report["peak"] - report["idle"] <= most, f"{report['peak']:,}: {worst}"


@pytest.mark.slow
@pytest.mark.parametrize("generator", ["odd_documents", "pngs", "yamls"])
def test_hostile_files_are_refused_in_one_sentence(tmp_path: Path, generator: str) -> None:
    report = run_child(tmp_path, generator, 0, 1)
    check(report, 0)
    check_memory(report)


@pytest.mark.slow
def test_a_tenth_of_the_changed_documents(tmp_path: Path) -> None:
    report = run_child(tmp_path, "changed_documents", 3, 10)
    assert len(report["outcomes"]) > 200
    check(report, 3)
    check_memory(report)


@pytest.mark.nightly
@pytest.mark.parametrize("part", range(10))
def test_all_changed_documents(tmp_path: Path, part: int) -> None:
    report = run_child(tmp_path, "changed_documents", part, 10)
    check(report, part)
    check_memory(report)
