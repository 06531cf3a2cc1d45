"""Prints what hostile files cost, by parser: attempts, failures, memory, time (make hostile)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

import hostile_costs  # noqa: E402 (after the path)
from cost_limits import FACTOR, SIZE, failures, measure  # noqa: E402

MIB = 1 << 20
GENERATORS = ("changed_documents", "odd_documents", "pngs", "yamls")


def row(name: str, attempts: int, failed: int, memory: float, seconds: object, worst: str) -> None:
    sys.stdout.write(
        f"| {name} | {attempts:,} | {failed} | {memory / MIB:.0f} MiB | {seconds} | {worst} |\n"
    )
    sys.stdout.flush()


def generated(folder: Path, generator: str) -> dict[str, Any]:
    """The report of ``hostile_child.py``."""
    files = folder / generator
    files.mkdir()
    child = ROOT / "tests/support/hostile_child.py"
    done = subprocess.run(
        [sys.executable, str(child), generator, str(files), "0", "1"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> int:
    failed = 0
    sys.stdout.write(
        f"{SIZE:,} and {SIZE * FACTOR:,} bytes of each kind; memory above the idle process\n\n"
        "| parser | attempts | failures | peak memory | most time | the worst kind |\n"
        "|---|---:|---:|---:|---:|---|\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for parser in dict.fromkeys(kind.parser for kind in hostile_costs.kinds()):
            reports = measure(folder, parser, timeout=3_600)
            wrong = [what for one in reports for what in failures(one)]
            failed += len(wrong)
            both = [(one["kind"], one[size]) for one in reports for size in ("small", "large")]
            slowest, time = max(both, key=lambda one: one[1]["seconds"])
            largest, memory = max(both, key=lambda one: one[1]["peak"])
            row(
                parser,
                len(both),
                len(wrong),
                memory["peak"],
                f"{time['seconds']:.2f} s",
                f"{slowest}; memory: {largest}",
            )
            for what in wrong:
                sys.stderr.write(f"{what}\n")
        for generator in GENERATORS:
            report = generated(folder, generator)
            outcomes = report["outcomes"]
            raised = [one for one in outcomes.values() if "raised" in one]
            failed += len(raised)
            worst = max(outcomes, key=lambda name: outcomes[name]["more_memory"])
            label = generator.replace("_", " ")
            row(label, len(outcomes), len(raised), report["peak"] - report["idle"], "", worst)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
