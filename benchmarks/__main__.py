"""``make bench``: runs each benchmark in its own process; prints a table, writes build/bench.json.

    python -m benchmarks [--files FOLDER] [--rounds N] [--only NAME …]

FOLDER holds sd21.safetensors and sd21.ckpt, two SD 2.1 checkpoints of 5.2 GB, which are created
with random weights if they are missing. The comparison with ComfyUI needs COMFYUI_DIR, and
COMFYUI_PYTHON if this Python cannot import ComfyUI.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from .measure import HEADER, ONE_THREAD, Row, from_json, to_json

ROOT = Path(__file__).parent.parent
PARTS = ["startup", "encoding", "comfyui", "dataset", "loading", "first"]
PEERS = ("torch", "transformers", "tokenizers", "safetensors")


def checkpoints(folder: Path) -> tuple[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "sd21.safetensors", folder / "sd21.ckpt"
    for path in paths:
        if not path.exists():
            print(f"writing {path} (5.2 GB) …", file=sys.stderr)
            maker = ROOT / "tests" / "support" / "layouts.py"
            subprocess.run([sys.executable, maker, "sd21", path], check=True)
    return str(paths[0]), str(paths[1])


def encoders(folder: Path, checkpoint: str) -> list[str]:
    """Return two files of the encoder alone, in fp32 and in fp16."""
    paths = []
    for dtype in ("fp32", "fp16"):
        path = folder / f"encoder_{dtype}.safetensors"
        if not path.exists():
            arguments = ["convert", checkpoint, path, "--dtype", dtype]
            subprocess.run([sys.executable, "-m", "sd2_clip", *arguments], check=True, cwd=ROOT)
        paths.append(str(path))
    return paths


def machine() -> dict[str, str]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    versions = {name: importlib.metadata.version(name) for name in PEERS}
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return {"processor": f"{len(names)} × {names[0]}", "threads": threads,
            "seconds": "of the processor" if ONE_THREAD else "that passed",
            "python": platform.python_version(), **versions,
            "load at the end": f"{os.getloadavg()[0]:.1f}"}  # fmt: skip


def measured(name: str, *arguments: str, python: str = sys.executable) -> list[Row]:
    command = [python, "-m", f"benchmarks.{name}", *arguments]
    print(" ".join(command), file=sys.stderr)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        return [Row(name, None, "", note=f"failed with status {done.returncode}, see above")]
    start = done.stdout.index("[\n")  # whatever a peer printed stands before
    return from_json(done.stdout[start:])


def comfyui(checkpoint: str, rounds: str) -> list[Row]:
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    if "COMFYUI_DIR" not in os.environ:
        return [Row("beside ComfyUI", None, "", 0.5, note="COMFYUI_DIR is not set")]
    return measured("comfyui", checkpoint, "--rounds", rounds, python=python)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="*", default=PARTS)
    arguments = parser.parse_args()
    safetensors, ckpt = checkpoints(arguments.files)
    rounds = str(arguments.rounds)
    parts = {
        "startup": lambda: measured("startup", safetensors),
        "encoding": lambda: measured("encoding", safetensors, "--rounds", rounds),
        "comfyui": lambda: comfyui(safetensors, rounds),
        "dataset": lambda: measured("dataset", safetensors),
        "loading": lambda: measured("loading", safetensors, ckpt, "--rounds", "3"),
        "first": lambda: measured("loading", "--first", *encoders(arguments.files, safetensors)),
    }
    rows = [row for name in arguments.only for row in parts[name]()]
    about = machine()
    result = {"machine": about, "rows": json.loads(to_json(rows))}
    out = ROOT / "build" / "bench.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(", ".join(f"{name} {value}" for name, value in about.items()), "", HEADER, sep="\n")
    print(*rows, sep="\n")


if __name__ == "__main__":
    main()
