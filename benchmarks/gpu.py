"""Encoding on a GPU: correctness, speed, latency, loading and memory, in one table.

    python -m benchmarks.gpu [--device cuda|cpu] [--layers 24] [--width 1024] [--seconds 1.0]

Needs torch, transformers and safetensors, and no file: weights are seeded. Takes under five minutes
on one card. On the CPU, with few layers, it only shows that it runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.sd2_clip import SD2ClipModel

from .measure import HEADER, Row

BATCHES = (1, 8, 32, 128, 512)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def chunk(first: int) -> list[int]:
    return [49406, *range(300 + first, 340 + first), 49407] + [0] * 35


def seeded_file(path: Path, options: dict[str, Any]) -> None:
    """Write an encoder with seeded weights of a trained one's magnitude, in fp16."""
    generator = torch.Generator().manual_seed(0)
    layout = SD2ClipModel(device="meta", model_options=options).clip_h.transformer.state_dict()
    tensors = {}
    for name, tensor in layout.items():
        values = torch.randn(tensor.shape, generator=generator) * 0.02
        if "layer_norm" in name and name.endswith("weight"):
            values += 1
        tensors[name] = values.half()
    save_file(tensors, path)


class Bench:
    """Measures on one device."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.seconds = torch.device(device), seconds
        self.on_gpu = self.device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def duration(self, work: Callable[[], object]) -> float:
        """Return the median duration of *work*, after two that do not count."""
        times: list[float] = []
        end = float("inf")
        while len(times) < 5 or time.perf_counter() < end:
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - started)
            if len(times) == 2:
                end = time.perf_counter() + self.seconds
        return sorted(times[2:])[len(times[2:]) // 2]

    def launches(self, work: Callable[[], object]) -> str:
        """Return how many kernels *work* launches."""
        if not self.on_gpu:
            return "no kernels on the CPU"
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
            work()
            self.wait()
        return f"{sum('Launch' in event.name for event in found.events())} launches"


def transformers_encoder(clip: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """CLIPTextModel on the same weights, without the last layer, which SD2 does not use."""
    from transformers import CLIPTextConfig, CLIPTextModel

    inner = clip.cond_stage_model.clip_h
    config = CLIPTextConfig(
        hidden_size=inner.config.hidden_size,
        intermediate_size=inner.config.intermediate_size,
        num_hidden_layers=inner.num_layers - 1,
        num_attention_heads=inner.config.num_attention_heads,
        hidden_act="gelu",
        vocab_size=inner.config.vocab_size,
        attn_implementation="sdpa",
    )
    model = CLIPTextModel(config).train(False).requires_grad_(False)
    weights = inner.transformer.state_dict()
    if not any(name.startswith("text_model.") for name in model.state_dict()):
        weights = {name.removeprefix("text_model."): t for name, t in weights.items()}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert not [name for name in missing if "position_ids" not in name]
    return model.to(device, dtype)


def products_alone(bench: Bench, clip: Any, batch: int) -> float:
    """Return the seconds that the encoder's matrix products alone take."""
    layers = clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers[:-1]
    linears = [m for layer in layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    weights = [layer.state_dict()["weight"] for layer in linears]
    inputs = {weight.shape[1] for weight in weights}
    like = weights[0]
    x = {n: torch.randn(77 * batch, n, device=like.device).to(like.dtype) for n in inputs}

    def products() -> None:
        for weight in weights:
            x[weight.shape[1]] @ weight.t()

    return bench.duration(products)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    sizes = {
        "num_hidden_layers": arguments.layers,
        "hidden_size": arguments.width,
        "intermediate_size": 4 * arguments.width,
        "projection_dim": arguments.width,
        "num_attention_heads": max(arguments.width // 64, 1),
    }
    options = {"clip_h_model_config": sizes}
    bench = Bench(arguments.device, arguments.seconds)
    name = torch.cuda.get_device_name() if bench.on_gpu else "the CPU"
    where = "gpu:0" if bench.on_gpu else "cpu"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "seeded.safetensors"
        seeded_file(file, options)
        right = load_clip(file, device="cpu", dtype="fp32", model_options=options)
        sample = [chunk(11 * number) for number in range(4)]
        expected = right.cond_stage_model.clip_h.encode_chunks(sample, 4)
        for label, dtype in DTYPES.items():
            if bench.on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            clip = load_clip(file, device=where, dtype=label, model_options=options)
            bench.wait()
            seconds = time.perf_counter() - started
            model = clip.cond_stage_model
            encoder = model.clip_h
            encoder.setup = replace(encoder.setup, cache=None)
            size = sum(p.nbytes for p in model.parameters()) / 1e6
            rows.append(Row(f"{label}: load to {name}", seconds, "s", note=f"{size:.0f} MB"))
            found = encoder.encode_chunks(sample, 4)
            for part, a, b in zip(("states", "pooled"), found, expected, strict=True):
                error = float((a.cpu() - b).norm() / b.norm())
                rows.append(Row(f"{label}: relative error of {part} against the CPU", error, "",
                                {"fp16": 0.01, "bf16": 0.05, "fp32": 1e-4}[label]))  # fmt: skip
            for kind, weight in (("plain", 1.0), ("weighted", 1.2)):
                pairs = {"h": [[(token, weight) for token in chunk(5)]]}

                def one(pairs: Any = pairs, model: Any = model) -> object:
                    return model.encode_token_weights(pairs)

                latency = 1000 * bench.duration(one)
                rows.append(Row(f"{label}: one prompt, {kind}", latency, "ms",
                                note=bench.launches(one)))  # fmt: skip
            peer = None
            if label == "fp16" and bench.on_gpu:
                peer = transformers_encoder(clip, dtype, bench.device)
            for batch in arguments.batches:
                chunks = [chunk(number) for number in range(batch)]
                ours = bench.duration(lambda c=chunks, e=encoder: e.encode_chunks(c, 0))  # type: ignore[misc]
                rate = products_alone(bench, clip, batch)
                note = f"{rate / ours:.2f} of the rate of its matrix products alone"
                if peer is not None:
                    ids = torch.tensor(chunks, device=bench.device)
                    theirs = bench.duration(lambda i=ids, p=peer: p(input_ids=i))  # type: ignore[misc]
                    note += f"; {theirs / ours:.2f} of transformers' fp16 sdpa"
                rows.append(Row(f"{label}: batch of {batch}", batch / ours, "prompts/s", note=note))
            if bench.on_gpu:
                peak = torch.cuda.max_memory_allocated() / 1e6
                rows.append(Row(f"{label}: peak memory", peak, "MB", note=f"weights {size:.0f} MB"))
    print(f"{name}, torch {torch.__version__}\n\n{HEADER}", *rows, sep="\n")


if __name__ == "__main__":
    main()
