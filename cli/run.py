"""``sd2-clip run WORKFLOW.json``: a workflow without ComfyUI."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .. import host
from ..headless.errors import WorkflowError
from ..host.standalone import StandaloneHost


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "workflow",
        metavar="WORKFLOW",
        type=Path,
        help="JSON in the editor's or the API's format, or a PNG or safetensors file that holds it",
    )
    add_host_arguments(parser)
    parser.add_argument(
        "--set",
        metavar="NODE.INPUT=VALUE",
        action="append",
        default=[],
        help="change an input; NODE is an id, a title or a class; may be given again",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where models are and where results go."""
    parser.add_argument(
        "--models",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="a models folder, a ComfyUI folder, any folder of model files, or an "
        "extra_model_paths.yaml; may be given again",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("output"))
    parser.add_argument("--device", default="auto", help="auto, cpu or gpu:N, where nodes say auto")


def run(arguments: argparse.Namespace) -> int:
    host.use(
        StandaloneHost(
            arguments.models or [path for path in [Path("models")] if path.is_dir()],
            output=arguments.output,
            device=arguments.device,
        )
    )
    started = time.monotonic()
    results = run_workflow(arguments.workflow, arguments.set, quiet=arguments.json)
    elapsed = time.monotonic() - started
    if arguments.json:
        print(json.dumps({"outputs": results, "seconds": round(elapsed, 3)}, indent=2))
    else:
        for outputs in results.values():
            for line in outputs.get("text", []):
                print(line)
        print(f"done in {elapsed:.1f} s")
    return 0


def run_workflow(path: Path, overrides: list[str], *, quiet: bool = False) -> dict[str, Any]:
    """Run the workflow in *path*; returns each output node's ``ui`` results by node id.

    Raises ``WorkflowError`` with one readable block if anything was not done.
    """
