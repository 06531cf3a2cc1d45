"""Runs ``cost_child.py``, and says what of its measurements breaks the promise of SECURITY.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
SIZE = 50_000
FACTOR = 4

FREE_MEMORY = 256 * MIB
BYTES_PER_BYTE = {"ComfyUI prompt": 8_192, "A1111 prompt": 8_192}
"""Of memory, for each byte of a file: 4. A few characters of a prompt may fill a chunk."""

LINEAR = 2.5
"""How much longer than FACTOR times as long the larger file may take: quadratic time takes FACTOR
times longer still."""
FREE_SECONDS = 0.05
"""What a start may cost, and what is too short to be measured."""


def measure(folder: Path, *parsers: str, timeout: float) -> list[dict[str, Any]]:
    """Measure the kinds of some parsers, in two sizes."""
    link = folder / "sd2_clip"
    if not link.exists():
        link.symlink_to(ROOT, target_is_directory=True)
    child = ROOT / "tests/support/cost_child.py"
    done = subprocess.run(
        [sys.executable, str(child), str(SIZE), str(FACTOR), *parsers],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def failures(report: dict[str, Any]) -> list[str]:
    """What of one kind breaks the promise."""
    found = []
    small, large = report["small"], report["large"]
    for one in (small, large):
        if one["error"]:
            found.append(one["error"])
        most = FREE_MEMORY + BYTES_PER_BYTE.get(report["parser"], 4) * one["bytes"]
        if one["peak"] > most:
            found.append(f"{one['peak']:,} bytes of memory for {one['bytes']:,}")
    grown = large["bytes"] / small["bytes"]
    if large["seconds"] > max(small["seconds"], FREE_SECONDS) * max(grown, FACTOR) * LINEAR:
        found.append(f"{small['seconds']:.2f} s, and {large['seconds']:.2f} s for {grown:.1f} n")
    return [f"{report['parser']}, {report['kind']}: {what}" for what in found]
