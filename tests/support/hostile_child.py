"""Reads hostile files in a process of its own, under limits of memory and processor time.

``python hostile_child.py GENERATOR FOLDER PART OF`` prints a JSON object: what came of each kind,
and the peak of memory. Our own errors are the one way in which a file may be refused.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_documents

GIB = 1 << 30
MEMORY = 8 * GIB  # of addresses; what counts is the peak, which is reported
SECONDS = 280


def read_workflow(path: Path) -> str:
    from sd2_clip import NODE_CLASS_MAPPINGS
    from sd2_clip.headless.overrides import apply_overrides
    from sd2_clip.headless.validation.validate import validate
    from sd2_clip.headless.workflow import load_workflow

    workflow = apply_overrides(load_workflow(path, NODE_CLASS_MAPPINGS), [])
    validation = validate(workflow)
    return "\n".join(validation.lines()[:20])


def read_yaml(path: Path) -> str:
    from sd2_clip.host.standalone import StandaloneHost
    from sd2_clip.sd2.detection.ldm_config import read_ldm_config
    from sd2_clip.sd2.errors import SD2ClipError

    said = []
    for read in (lambda: StandaloneHost([path]), lambda: read_ldm_config(path)):
        try:
            read()
        except SD2ClipError as error:
            said.append(str(error))
    return "\n".join(said)


READERS: dict[str, Callable[[Path], str]] = {
    "changed_documents": read_workflow,
    "odd_documents": read_workflow,
    "pngs": read_workflow,
    "yamls": read_yaml,
}


def peak() -> int:
    """The most memory that this process had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(read: Callable[[Path], str], path: Path) -> dict[str, Any]:
    from sd2_clip.sd2.errors import SD2ClipError

    try:
        return {"said": read(path)}
    except SD2ClipError as error:
        return {"said": str(error)}
    except Exception as error:
        trace = "".join(traceback.format_exception(error)[-3:])
        return {"said": "", "raised": f"{type(error).__name__}: {trace}"}


def main(generator: str, folder: Path, part: int, of: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    read = READERS[generator]
    path = folder / f"hostile-{part}"
    outcomes = {}
    path.write_bytes(b"{}")
    outcome(read, path)  # imports what is needed
    idle = peak()
    largest = 0
    for number, (name, data) in enumerate(getattr(hostile_documents, generator)()):
        if number % of != part:
            continue
        path.write_bytes(data)
        largest = max(largest, len(data))
        before = peak()
        outcomes[name] = outcome(read, path) | {"more_memory": peak() - before}
    report = {"outcomes": outcomes, "idle": idle, "peak": peak(), "largest": largest}
    report["files"] = sorted(os.listdir(folder))
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
