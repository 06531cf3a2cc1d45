"""``sd2-clip run WORKFLOW.json``: a workflow without ComfyUI."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from textwrap import indent
from typing import Any

from .. import NODE_CLASS_MAPPINGS, host
from ..headless.execution.executor import Executor
from ..headless.overrides import apply_overrides
from ..headless.validation.validate import Validation
from ..headless.workflow import load_workflow
from ..headless.workflow_errors import WorkflowError
from ..host.standalone import StandaloneHost
from ..sd2.files.atomic_write import check_writable
from .terminal_progress import TerminalProgress

log = logging.getLogger("sd2_clip")


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
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        default=Path("output"),
        help="where results are written (./output)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or gpu:N, where nodes say auto")


def run(arguments: argparse.Namespace) -> int:
    check_writable(arguments.output)
    models = arguments.models or [path for path in (Path("models"),) if path.is_dir()]
    host.use(StandaloneHost(models, output=arguments.output, device=arguments.device))
    run_workflow(arguments.workflow, arguments.set, as_json=arguments.json)
    return 0


def run_workflow(path: Path, overrides: list[str], *, as_json: bool = False) -> None:
    """Run the workflow in *path* and print what its output nodes said, and the time it took.

    Raises ``WorkflowError``, one readable block, if anything was not done; what did run is on
    disk, and was printed before.
    """
    started = time.monotonic()
    workflow = load_workflow(path, NODE_CLASS_MAPPINGS)
    prompt = apply_overrides(workflow.prompt, overrides, NODE_CLASS_MAPPINGS)
    executor = Executor(NODE_CLASS_MAPPINGS)
    validation = executor.validate(prompt)
    problems = list(validation.lines())
    notes = [] if as_json else [*workflow.notes, *validation.notes]
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    results: dict[str, Any] = {}
    if validation.ok:
        extra = {} if workflow.ui_workflow is None else {"workflow": workflow.ui_workflow}
        with TerminalProgress(workflow.titles, quiet=as_json) as progress:
            execution = executor.execute(
                validation, extra_data={"extra_pnginfo": extra}, listener=progress
            )
        results = execution.outputs
        failures = [*execution.blocked, *filter(None, [execution.error])]
        problems += [str(failure) for failure in failures]
        if execution.error is not None:
            log.debug("%s", "".join(execution.error.traceback))
    seconds = time.monotonic() - started
    if as_json:
        print(json.dumps({"outputs": results, "errors": problems, "seconds": seconds}, indent=2))
    else:
        for outputs in results.values():
            for line in outputs.get("text", []):
                print(line)
    if problems:
        lines = "\n".join([*problems, *_hint(validation)])
        raise WorkflowError(f"{path} was not run completely:\n{indent(lines, '  ')}")
    if not as_json:
        print(f"done in {seconds:.1f} s")


def _hint(validation: Validation) -> list[str]:
    """How to change the first input whose value was refused."""
    for node_id, found in validation.node_errors.items():
        for error in found["errors"]:
            name = error["extra_info"].get("input_name")
            if name and error["type"] in ("value_not_in_list", "custom_validation_failed"):
                return [f'Another value is given with: --set "{node_id}.{name}=VALUE"']
    return []
