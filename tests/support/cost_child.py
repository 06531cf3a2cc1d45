"""Measures what files cost to read, each kind in two sizes, in a process of its own.

``python cost_child.py SIZE FACTOR PARSER…`` (or ``worst`` of all) writes a line of JSON for each
kind: processor time, and the peak of memory above that of the idle process, for SIZE bytes and for
FACTOR times as many.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import fuzz_targets
import hostile_costs

GIB = 1 << 30
MEMORY = 6 * GIB  # of addresses; above that, the kind fails with MemoryError
SECONDS = 60


def memory(name: str) -> int:
    """VmRSS, or VmHWM: the peak since ``forget_peak``; in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def forget_peak() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


LONG = 0.3
"""Seconds from which a measurement is repeated."""


def read(reader: str, path: Path) -> None:
    """Read a file as the parser's fuzz target does."""
    if reader.startswith("model"):
        fuzz_targets.read_model(path)
    elif reader.startswith("embedding"):
        fuzz_targets.read_embedding(path)
    elif reader.startswith("workflow"):
        fuzz_targets.attempt(lambda: fuzz_targets.read_workflow(path))
    elif reader.startswith("yaml"):
        fuzz_targets.read_yaml(path)
    elif reader.startswith("comfy"):
        fuzz_targets.comfy_prompt(path.read_bytes())
    elif reader.startswith("a1111"):
        fuzz_targets.a1111_prompt(path.read_bytes())
    else:
        fuzz_targets.attempt(lambda: fuzz_targets.read_captions(path, {}))


def measured(kind: hostile_costs.Kind, size: int) -> dict[str, Any]:
    path = fuzz_targets.folder() / kind.reader
    data = kind.make(size)
    path.write_bytes(data)
    length = len(data)
    del data
    forget_peak()
    start = time.process_time()
    error = None
    try:
        read(kind.reader, path)
    except BaseException as caught:
        error = "".join(traceback.format_exception(caught)[-3:])[-600:]
    seconds = time.process_time() - start
    path.unlink()
    return {"bytes": length, "seconds": seconds, "peak": memory("VmHWM"), "error": error}


def warm_up(kinds: list[hostile_costs.Kind]) -> None:
    """Import and cache what every reader needs."""
    for reader in dict.fromkeys(kind.reader for kind in kinds):
        measured(next(kind for kind in kinds if kind.reader == reader), 100)


def main(size: int, factor: int, parsers: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    kinds = [
        kind
        for kind in hostile_costs.kinds()
        if kind.parser in parsers
        or (parsers == ["worst"] and (kind.parser, kind.name) in hostile_costs.WORST)
    ]
    warm_up(kinds)
    forget_peak()
    idle = memory("VmRSS")
    for kind in kinds:
        results = [measured(kind, size), measured(kind, size * factor)]
        if results[1]["seconds"] > LONG:  # what else runs may have disturbed it
            again = measured(kind, size * factor)["seconds"]
            results[1]["seconds"] = min(results[1]["seconds"], again)
        for one in results:
            one["peak"] -= idle
        report = {
            "parser": kind.parser,
            "kind": kind.name,
            "small": results[0],
            "large": results[1],
        }
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
