"""``sd2-clip run WORKFLOW.json``: runs a workflow without ComfyUI."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

from .. import NODE_CLASS_MAPPINGS, host
from ..headless.execution.executor import Executor
from ..headless.execution.run_graph import Execution
from ..headless.node_class import NodeClasses
from ..headless.overrides import apply_overrides
from ..headless.validation.problems import CUSTOM, InputProblem, NodeProblem
from ..headless.validation.validate import Validation, validate
from ..headless.workflow import load_workflow
from ..headless.workflow_errors import WorkflowError
from ..host.standalone import StandaloneHost
from ..sd2.errors import and_more, plain_text
from ..sd2.files.atomic_write import writable
from .encode_arguments import report_lines
from .path_argument import path_argument
from .terminal_progress import TerminalProgress

log = logging.getLogger("sd2_clip")

MOST_PROBLEMS = 20

MOST_TEXTS = 3
"""Texts of a node, such as the reports of a list of prompts."""

FACTS = ("Layout:", "Loaded:")
"""Starts of the lines of Load SD2 CLIP's ``info`` that are printed."""

REFUSED_VALUES = ("value_not_in_list", CUSTOM)
"""Kinds of problems that another value solves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "workflow",
        metavar="WORKFLOW",
        type=path_argument,
        help="JSON in the editor's or the API's format, or a PNG or safetensors file with it",
    )
    add_host_arguments(parser)
    parser.add_argument(
        "--set",
        metavar="NODE.INPUT=VALUE",
        action="append",
        default=[],
        help="change an input; NODE is an id, a title or a class; repeatable",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for models, results and the device."""
    parser.add_argument(
        "--models",
        metavar="DIR",
        type=path_argument,
        action="append",
        default=[],
        help="a models folder, a ComfyUI folder, any folder of model files, or an "
        "extra_model_paths.yaml; repeatable",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=path_argument,
        default=Path("output"),
        help="folder for results (./output)",
    )
    parser.add_argument(
        "--device", default="auto", help="device for nodes set to auto: auto, cpu or gpu:N"
    )


def run(arguments: argparse.Namespace) -> int:
    models = arguments.models or [path for path in (Path("models"),) if path.is_dir()]
    host.use(StandaloneHost(models, output=arguments.output, device=arguments.device))
    with writable(arguments.output):
        run_workflow(arguments.workflow, arguments.set, as_json=arguments.json)
    return 0


def run_workflow(path: Path, overrides: list[str], *, as_json: bool = False) -> None:
    """Run the workflow in *path*; print the texts of its output nodes and the time it took.

    Raises ``WorkflowError`` with all that failed, in one block. Results of what did run are on
    disk, and were printed before.
    """
    started = time.monotonic()
    workflow = apply_overrides(load_workflow(path, NODE_CLASS_MAPPINGS), overrides)
    validation = validate(workflow)
    problems = validation.lines()
    for note in (*workflow.notes, *validation.notes):
        print(f"note: {plain_text(note, None)}", file=sys.stderr)
    results: dict[str, Any] = {}
    reports: list[str] = []
    if validation.ok:
        extra = {} if workflow.ui_workflow is None else {"workflow": workflow.ui_workflow}
        with TerminalProgress(workflow.titles, quiet=as_json) as progress:
            execution = Executor().execute(
                validation, extra_data={"extra_pnginfo": extra}, listener=progress
            )
        results = execution.outputs
        reports = list(_reports(validation, execution))
        if execution.error is not None:
            problems.append(str(execution.error))
            log.debug("%s", "".join(execution.error.traceback))
    seconds = time.monotonic() - started
    if as_json:
        print(json.dumps({"outputs": results, "errors": problems, "seconds": seconds}, indent=2))
    else:
        for line in reports:
            print(plain_text(line))
        for node_id in validation.outputs:
            for line in results.get(node_id, {}).get("text", []):
                print(plain_text(str(line), None))
    if needs := _classes_of_comfyui(validation):
        raise WorkflowError(f"{path}: this workflow needs ComfyUI: {', '.join(needs)}.")
    if problems:
        lines = "\n".join([and_more(problems, MOST_PROBLEMS, "\n"), *_hint(validation)])
        raise WorkflowError(f"{path} was not run completely:\n{indent(lines, '  ')}")
    if not as_json:
        print(f"done in {seconds:.1f} s")


def _reports(validation: Validation, execution: Execution) -> Iterator[str]:
    """Yield what the nodes inside the workflow say of what they did: a line for each text."""
    for node_id in execution.executed:
        if node_id in validation.outputs:
            continue
        shown = execution.outputs.get(node_id, {}).get("text", [])
        texts = execution.texts[node_id] or ["\n".join(shown)]
        for text in texts[:MOST_TEXTS]:
            lines = report_lines(text)
            facts = [line.partition(":")[2].strip() for line in lines if line.startswith(FACTS)]
            if told := "; ".join(facts or shown or lines):
                yield f"node {node_id} ({validation.workflow.titles[node_id]}): {told}"
        if len(texts) > MOST_TEXTS:
            yield f"  and {len(texts) - MOST_TEXTS:,} more"


def _classes_of_comfyui(validation: Validation) -> list[str]:
    """List the classes that only ComfyUI has, if no part of the workflow can run without them."""
    if validation.ok:
        return []
    ours = NodeClasses(NODE_CLASS_MAPPINGS)
    absent = [
        str(node.class_type)
        for bad in validation.bad_nodes.values()
        for problem in bad.problems
        if isinstance(problem, NodeProblem)
        for node in problem.not_installed
    ]
    is_misspelt = any(ours.like(name) is not None for name in absent)
    return [] if is_misspelt else list(dict.fromkeys(absent))


def _hint(validation: Validation) -> list[str]:
    """Say how to change the first input whose value was refused."""
    for node_id, bad in validation.bad_nodes.items():
        for problem in bad.problems:
            if not isinstance(problem, InputProblem) or "--models" in problem.details:
                continue
            if problem.kind in REFUSED_VALUES:
                return [f'Choose another value with: --set "{node_id}.{problem.input_name}=VALUE"']
    return []
