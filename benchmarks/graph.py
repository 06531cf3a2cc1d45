"""Measures how long graphs take to validate, to run, and to run again from the cache.

    python -m benchmarks.graph     # from the root of the repository, with the package installed

The nodes only add one, so the time is that of the graph. Prints processor seconds (best of three;
one run above 10,000 nodes) and the exponent of growth from one size to the next: 1 is linear.
``--json FILE`` writes the results to a file. With ``COMFYUI_DIR`` set to a ComfyUI folder whose
requirements are installed, ComfyUI's executor runs the same prompts, up to the size at which it
fails or takes more than ``PATIENCE`` seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from sd2_clip.headless.editor_format.to_prompt import workflow_to_prompt
from sd2_clip.headless.execution.executor import Executor
from sd2_clip.headless.node_class import NodeClasses
from sd2_clip.headless.validation.validate import validate
from sd2_clip.headless.workflow import read_prompt

SIZES = (1_000, 10_000, 100_000)
PEER_SIZES = (100, 200, 400, 800, 1_000)
PATIENCE = 60.0

Prompt = dict[str, Any]


class BenchNumber:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {})}}

    def run(self, value: int) -> tuple[int]:
        return (value,)


class BenchAdd:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"a": ("INT", {})}, "optional": {"b": ("INT", {"default": 1})}}

    def run(self, a: int, b: int = 1) -> tuple[int]:
        return ((a + b) % 1_000_003,)


class BenchShow:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {})}}

    def run(self, value: int) -> dict[str, Any]:
        return {"ui": {"value": [value]}}


NODES: dict[str, type] = {cls.__name__: cls for cls in (BenchNumber, BenchAdd, BenchShow)}


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def chain(size: int) -> Prompt:
    """Build a chain: each node reads the node before it."""
    prompt = {"0": _node("BenchNumber", value=1)}
    for i in range(1, size - 1):
        prompt[str(i)] = _node("BenchAdd", a=[str(i - 1), 0])
    prompt["show"] = _node("BenchShow", value=[str(size - 2), 0])
    return prompt


def diamonds(size: int) -> Prompt:
    """Build a chain in which each node reads the node before it twice."""
    prompt = chain(size)
    for i in range(1, size - 1):
        prompt[str(i)]["inputs"]["b"] = [str(i - 1), 0]
    return prompt


def fan_out(size: int) -> Prompt:
    """Build a fan: all nodes read the first node, each with another value, and all are shown."""
    prompt = {"0": _node("BenchNumber", value=1)}
    for i in range(1, size // 2):
        prompt[str(i)] = _node("BenchAdd", a=["0", 0], b=i)
        prompt[f"show{i}"] = _node("BenchShow", value=[str(i), 0])
    return prompt


def fan_in(size: int) -> Prompt:
    """Build a binary tree of additions."""
    prompt: Prompt = {f"n{i}": _node("BenchNumber", value=i) for i in range(size // 2)}
    level = list(prompt)
    while len(level) > 1:
        pairs = list(zip(level[::2], level[1::2], strict=False))
        rest = [level[-1]] if len(level) % 2 else []
        level = []
        for one, other in pairs:
            name = f"a{len(prompt)}"
            prompt[name] = _node("BenchAdd", a=[one, 0], b=[other, 0])
            level.append(name)
        level += rest
    prompt["show"] = _node("BenchShow", value=[level[0], 0])
    return prompt


SHAPES: dict[str, Callable[[int], Prompt]] = {
    "chain": chain,
    "diamonds": diamonds,
    "fan out": fan_out,
    "fan in": fan_in,
}


def saved_chain(size: int) -> dict[str, Any]:
    """Build the chain in the editor's format."""
    nodes, links = [], []
    for i, (name, node) in enumerate(chain(size).items()):
        sockets = []
        if i:
            sockets = [{"name": next(iter(node["inputs"])), "type": "INT", "link": i}]
            links.append([i, i - 1, 0, i, 0, "INT"])
        nodes.append(
            {
                "id": i,
                "type": node["class_type"],
                "title": name,
                "inputs": sockets,
                "outputs": [{"name": "INT", "type": "INT"}],
                "widgets_values": [1, 1],
            }
        )
    return {"nodes": nodes, "links": links, "version": 0.4}


def seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(prompt: Prompt) -> dict[str, float]:
    """Time our executor: validation, a first run, and the same prompt again."""
    times: dict[str, list[float]] = {"validate": [], "run": [], "again": []}
    for _ in range(3 if len(prompt) <= 10_000 else 1):
        executor = Executor()
        started = time.process_time()
        validation = validate(read_prompt(prompt, NODES))
        validated = time.process_time()
        execution = executor.execute(validation)
        times["validate"].append(validated - started)
        times["run"].append(time.process_time() - validated)
        if execution.status != "success":
            raise SystemExit(f"the run failed: {execution.error}")
        started = time.process_time()
        executor.execute(validate(read_prompt(prompt, NODES)))
        times["again"].append(time.process_time() - started)
    return {name: min(found) for name, found in times.items()}


class Peer:
    """Runs ComfyUI's executor in this process, without a client."""

    def __init__(self, folder: str) -> None:
        sys.path.insert(0, folder)
        arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
        try:
            import_module("comfy.options").enable_args_parsing()
            self._execution = import_module("execution")
            self.version = import_module("comfyui_version").__version__
        finally:
            sys.argv = arguments
        logging.getLogger().setLevel(logging.CRITICAL)
        import_module("nodes").NODE_CLASS_MAPPINGS.update(NODES)

    def measure(self, prompt: Prompt) -> dict[str, float]:
        executor = self._execution.PromptExecutor(
            _NoServer(), cache_type=False, cache_args={"lru": 0, "ram": 0, "ram_inactive": 0}
        )
        started = time.process_time()
        outputs = self._validate(prompt)
        validated = time.process_time()
        executor.execute(prompt, "first", {}, outputs)
        ran = time.process_time()
        if not executor.success:
            raise RuntimeError(executor.status_messages[-1][1].get("exception_message"))
        again = seconds(lambda: executor.execute(prompt, "again", {}, self._validate(prompt)))
        return {"validate": validated - started, "run": ran - validated, "again": again}

    def _validate(self, prompt: Prompt) -> Any:
        ok, error, outputs, node_errors = asyncio.run(
            self._execution.validate_prompt("id", prompt, None)
        )
        if not ok:
            first = next(iter(node_errors.values()), {"errors": [error]})["errors"][0]
            raise RuntimeError(f"{first['message']}: {first['details'][:60]}")
        return outputs


class _NoServer:
    client_id = None
    last_node_id = None

    def send_sync(self, event: str, data: Any, sid: Any = None) -> None:
        pass


def report(
    title: str, sizes: Iterable[int], run: Callable[[int], dict[str, float]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size in sizes:
        try:
            found = run(size)
        except Exception as error:
            print(f"{title:<22}{size:>8}   fails: {error}", flush=True)
            break
        row: dict[str, Any] = {"what": title, "nodes": size, **found}
        total = found["first"] = found.get("validate", 0.0) + found["run"]
        if rows:
            before = rows[-1]
            row["growth"] = math.log(total / before["first"]) / math.log(size / before["nodes"])
        row["first"] = total
        rows.append(row)
        again = f"{row['again']:>10.4f}" if "again" in row else " " * 10
        growth = f"{row['growth']:>8.2f}" if "growth" in row else ""
        validate = f"{row['validate']:>10.4f}" if "validate" in row else " " * 10
        print(f"{title:<22}{size:>8}{validate}{row['run']:>10.4f}{again}{growth}", flush=True)
        if total > PATIENCE:
            break
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    print(f"{'':<22}{'nodes':>8}{'validate':>10}{'run':>10}{'again':>10}{'growth':>8}")
    rows = []
    for name, make in SHAPES.items():
        rows += report(name, SIZES, lambda size, make=make: measure(make(size)))
    for size in SIZES:
        workflow = saved_chain(size)
        rows += report(
            "editor's format",
            [size],
            lambda size, workflow=workflow: {
                "run": seconds(lambda: workflow_to_prompt(workflow, NodeClasses(NODES)))
            },
        )
    folder = os.environ.get("COMFYUI_DIR")
    if folder:
        peer = Peer(folder)
        for name, make in SHAPES.items():
            title = f"{name}, ComfyUI {peer.version}"
            rows += report(title, PEER_SIZES, lambda size, make=make: peer.measure(make(size)))
            rows += report(f"{name}, here", PEER_SIZES, lambda size, make=make: measure(make(size)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
