"""Measures loading from 5.2 GB checkpoints: time, peak memory, memory shared by processes.

    python -m benchmarks.loading CHECKPOINT.safetensors CHECKPOINT.ckpt [--rounds N]
    python -m benchmarks.loading --first FP32.safetensors FP16.safetensors [--rounds N]

The second form compares the first prompts from two files of the encoder alone.

Each measurement runs in its own process. Files are read once before, to fill the page cache. Mapped
weights are read on first access, so "load" includes one access to each of them; but not with
``--first``, where the first prompt reads them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from .measure import Row, clock, to_json

Result = dict[str, float]


def memory(field: str, file: str = "status") -> float:
    """Return a memory figure of this process in MB, from /proc."""
    for line in Path(f"/proc/self/{file}").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1000
    raise LookupError(field)


def text_tensors(path: str) -> dict[str, Any]:
    from sd2_clip.sd2.detection.detect import detect
    from sd2_clip.sd2.files.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    return {
        source.key: checkpoint.locations[source.key]
        for source in detect(checkpoint).sources.values()
    }


def read_bytes(path: str) -> Result:
    """Time reading the bytes of the text tensors into memory, one after another."""
    from sd2_clip.sd2.files.tensor_storage import (
        _data_start,  # a zip's entries begin where their header says
    )

    locations = text_tensors(path).values()
    with open(path, "rb", buffering=0) as file:
        blocks = sorted({(_data_start(file, p.block), p.block.size) for p in locations})  # type: ignore[arg-type]
        buffers = [bytearray(size) for _, size in blocks]
        started = clock()
        for (start, size), buffer in zip(blocks, buffers, strict=True):
            file.seek(start)
            view = memoryview(buffer)
            done = 0
            while done < size:
                done += file.readinto(view[done:])
    return {"seconds": clock() - started, "megabytes": sum(map(len, buffers)) / 1e6}


def ours(path: str, dtype: str = "fp32", *, wait: bool = False) -> Result:
    from sd2_clip.clip.load_clip import load_clip

    warm_up()
    before = memory("VmRSS")
    started = clock()
    clip = load_clip(path, device="cpu", dtype=dtype)
    loaded = clock() - started
    parameters = list(clip.cond_stage_model.parameters())
    for parameter in parameters:
        parameter.view(-1)[:: 1024 if parameter.element_size() == 4 else 2048].sum().item()
    result = {
        "seconds": clock() - started,
        "mapping": loaded,
        "peak": memory("VmHWM") - before,
        "anonymous": memory("RssAnon"),
        "encoder": sum(p.numel() * p.element_size() for p in parameters) / 1e6,
    }
    if wait:  # until the others are there too
        print("ready", flush=True)
        sys.stdin.readline()
        for field in ("Pss", "Rss"):
            result[field] = memory(field, "smaps_rollup")
    return result


def safetensors_get(path: str) -> Result:
    from safetensors import safe_open

    names = list(text_tensors(path))
    started = clock()
    with safe_open(path, "pt") as file:
        tensors = [file.get_tensor(name).clone() for name in names]
    return {"seconds": clock() - started, "count": len(tensors)}


def torch_load(path: str) -> Result:
    import torch

    before = memory("VmRSS")
    started = clock()
    torch.load(path, map_location="cpu", weights_only=True)
    return {"seconds": clock() - started, "peak": memory("VmHWM") - before}


def warm_up() -> None:
    """Load libraries that are no part of loading a file."""
    import torch
    from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer

    SD2Tokenizer().tokenize_with_weights("once")
    torch.zeros(1).half()


def first_prompts(path: str, prompts: int = 1, *, packs: bool = True) -> Result:
    """Time loading and the first prompt, and what *prompts* prompts add to private memory."""
    from sd2_clip.clip.load_clip import load_clip
    from sd2_clip.sd2.model import onednn

    warm_up()
    if not packs:
        onednn.PACK_AFTER = math.inf
    before = memory("RssAnon")
    started = clock()
    clip = load_clip(path, device="cpu", dtype="fp32")
    loaded = clock()
    clip.encode("prompt")
    encoded = clock()
    for number in range(1, prompts):
        clip.encode(f"{number} prompts")
    size = sum(p.numel() * 4 for p in clip.cond_stage_model.parameters()) / 1e6
    return {
        "load": loaded - started,
        "prompt": encoded - loaded,
        "both": encoded - started,
        "private": (memory("RssAnon") - before) / size,
    }


WORKS = {
    "first": first_prompts,
    "first, never packed": lambda path: first_prompts(path, packs=False),
    "many": lambda path: first_prompts(path, 16),
    "bytes": read_bytes,
    "ours": ours,
    "half": lambda path: ours(path, "fp16"),
    "waiting": lambda path: ours(path, wait=True),
    "safe_open": safetensors_get,
    "torch.load": torch_load,
}


def start(work: str, path: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.loading", "--only", work, path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(work: str, path: str) -> Result:
    output, _ = start(work, path).communicate()
    result: Result = json.loads(output.splitlines()[-1])
    return result


def together(path: str, processes: int) -> list[Result]:
    """Measure *processes* that hold the encoder at the same time."""
    running = [start("waiting", path) for _ in range(processes)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    results = []
    for process in running:  # asked in turns, while all others still hold theirs
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout is not None
        results.append(json.loads(process.stdout.readline()))
    for process in running:
        process.communicate()
    return results


def median(results: list[Result], field: str) -> float:
    return statistics.median(one[field] for one in results)


def table(safetensors: str, ckpt: str | None, rounds: int) -> list[Row]:
    works = {"bytes": safetensors, "ours": safetensors, "half": safetensors,
             "safe_open": safetensors}  # fmt: skip
    results: dict[str, list[Result]] = {}
    for _ in range(rounds + 1):
        for work, path in works.items():
            results.setdefault(work, []).append(run(work, path))
        if ckpt is not None:
            results.setdefault("ckpt", []).append(run("ours", ckpt))
    results = {name: all_rounds[1:] for name, all_rounds in results.items()}
    raw, load = median(results["bytes"], "seconds"), median(results["ours"], "seconds")
    size = median(results["ours"], "encoder")
    half_size = median(results["half"], "encoder")
    rows = [
        Row("load 5.2 GB fp32 .safetensors / reading the text tensors' bytes", load / raw, "×", 1.3,
            note=f"load {load:.3f} s (mapping {median(results['ours'], 'mapping'):.3f} s), "
            f"bytes {raw:.3f} s, safe_open + copy {median(results['safe_open'], 'seconds'):.3f} s"),
        Row("its peak memory above the baseline / encoder", median(results["ours"], "peak") / size,
            "×", 1.1, note=f"of it anonymous: {median(results['ours'], 'anonymous'):.0f} MB with "
            "Python and torch; the rest is page cache"),
        Row("load the same as fp16 / reading the bytes", median(results["half"], "seconds") / raw,
            "×"),
        Row("its peak memory above the baseline / encoder in fp16",
            median(results["half"], "peak") / half_size, "×", 1.1,
            note="mapped fp32 pages that were read count too; the system may drop them"),
    ]  # fmt: skip
    if ckpt is None:
        rows.append(Row("load 5.2 GB .ckpt / .safetensors", None, "×", 2, note="no .ckpt given"))
    else:
        peer = run("torch.load", ckpt)
        ckpt_load = median(results["ckpt"], "seconds")
        rows += [
            Row("load 5.2 GB .ckpt / .safetensors", ckpt_load / load, "×", 2,
                note=f"torch.load(weights_only): {peer['seconds']:.1f} s, {peer['peak']:.0f} MB"),
            Row("its peak memory above the baseline / encoder",
                median(results["ckpt"], "peak") / size, "×", 1.1),
        ]  # fmt: skip
    both = together(safetensors, 2)
    note = f"each has {both[0]['Rss']:.0f} MB resident"
    rows.append(
        Row("two processes at once: PSS of both", sum(one["Pss"] for one in both), "MB", note=note)
    )
    return rows


def first_table(fp32: str, fp16: str, rounds: int) -> list[Row]:
    files = {"fp32": fp32, "fp16": fp16}
    first: dict[str, list[Result]] = {name: [] for name in files}
    unpacked: list[Result] = []
    for number in range(rounds + 1):
        for name, path in files.items():
            result = run("first", path)
            if number:
                first[name].append(result)
        unpacked.append(run("first, never packed", fp32))

    def compared(field: str) -> float:
        return median(first["fp16"], field) / median(first["fp32"], field)

    note = ", ".join(
        f"{name}: {median(results, 'load'):.3f} s and {median(results, 'prompt'):.3f} s"
        for name, results in first.items()
    )
    private = {name: run("many", path)["private"] for name, path in files.items()}
    return [
        Row("fp16 file: load / fp32 file's", compared("load"), "×", 1.3, note=note),
        Row("fp16 file: first prompt / fp32 file's", compared("prompt"), "×", 1.5),
        Row("load and one prompt / the same where nothing is ever packed",
            median(first["fp32"], "both") / median(unpacked[1:], "both"), "×", 1.05),
        *(
            Row(f"{name} file: private memory after packing / encoder in fp32", value, "×", 1.0)
            for name, value in private.items()
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WORKS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(WORKS[arguments.only](arguments.files[0])), flush=True)
        if arguments.only == "waiting":
            sys.stdin.readline()
        return
    if arguments.first:
        print(to_json(first_table(*arguments.files, arguments.rounds)))
        return
    safetensors, ckpt = [*arguments.files, None][:2]
    print(to_json(table(safetensors, ckpt, arguments.rounds)))


if __name__ == "__main__":
    main()
