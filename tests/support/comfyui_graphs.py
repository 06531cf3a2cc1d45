"""Pieces of prompts, and what comes out of them, for tests in a real ComfyUI."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfyui_server import ComfyUI, Graph, Link
from safetensors import safe_open

TOLERANCE = 1e-5

Tensors = dict[str, torch.Tensor]


def results(server: ComfyUI, graph: Graph, **conditionings: Link) -> dict[str, Tensors]:
    """Runs *graph*; the tensors of each of the named conditionings."""
    for name, link in conditionings.items():
        graph.add("SaveForTest", conditioning=link, name=name)
    server.run(graph)
    return {name: saved(server, name) for name in conditionings}


def saved(server: ComfyUI, name: str) -> Tensors:
    """What SaveForTest wrote."""
    with safe_open(server.output / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def notes(server: ComfyUI, name: str) -> list[dict[str, Any]]:
    """What SaveForTest noted of the options of each entry; ours beside ComfyUI's left out."""
    found = _all_notes(server, name)
    for entry in found:
        entry.pop("sd2_clip", None)
        entry["keys"] = [key for key in entry["keys"] if key != "sd2_clip"]
    return found


def records(server: ComfyUI, name: str) -> list[str]:
    """The record of each entry that SaveForTest noted."""
    return [entry["sd2_clip"] for entry in _all_notes(server, name)]


def _all_notes(server: ComfyUI, name: str) -> list[dict[str, Any]]:
    with safe_open(server.output / f"{name}.safetensors", framework="pt") as file:
        return list(json.loads(file.metadata()["notes"]))


def encode(graph: Graph, clip: Link, text: str = "a (red:1.3) cat, no dog") -> Link:
    return graph.add("CLIPTextEncode", clip=clip, text=text).out()


def core_clip(graph: Graph, file: str = "encoder.safetensors") -> Link:
    if file.startswith("sd21"):
        return graph.add("CheckpointLoaderSimple", ckpt_name=file).out(1)
    return graph.add("CLIPLoader", clip_name=file, type="stable_diffusion").out()


def our_clip(graph: Graph, file: str = "encoder.safetensors", **options: Any) -> Link:
    return graph.add("LoadSD2CLIP", clip_name=file, **options).out()


def assert_same(
    ours: Tensors, core: Tensors, *, but: tuple[str, ...] = (), tolerance: float = TOLERANCE
) -> None:
    assert sorted(ours) == sorted(core)
    for name, tensor in ours.items():
        if name not in but:
            torch.testing.assert_close(tensor, core[name], rtol=0, atol=tolerance)
