"""A models folder for the editor's browser tests, in a few seconds."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors.torch import save_file
from sd2_clip.cli.demo_command import random_state_dict

GOOD, SHORT, WRONG = "sd2-random.safetensors", "sd2-23-layers.safetensors", "v1-5.safetensors"
FIRST = "a-v1-5.safetensors"
"""The first of the list, and wrong."""


def write_models(folder: Path) -> None:
    """An encoder of random weights, its first 23 layers, an SD 1.x checkpoint, and embeddings."""
    encoders, embeddings = folder / "text_encoders", folder / "embeddings"
    encoders.mkdir()
    embeddings.mkdir()
    (folder / "checkpoints").mkdir()
    state_dict = random_state_dict()
    tower = {n.removeprefix("clip_h.transformer."): t for n, t in state_dict.items()}
    tower = {name: tensor for name, tensor in tower.items() if name.startswith("text_")}
    save_file(tower, encoders / GOOD)
    kept = {n: t for n, t in tower.items() if ".layers.23." not in n and "projection" not in n}
    save_file(kept, encoders / SHORT)
    write_hollow(folder / "checkpoints" / WRONG, sd1_shapes())
    write_hollow(folder / "checkpoints" / FIRST, sd1_shapes())
    torch.manual_seed(1)
    save_file({"emb_params": torch.randn(4, 1024) / 50}, embeddings / "style-oil.safetensors")
    save_file({"emb_params": torch.randn(2, 1024) / 50}, embeddings / "style-ink.safetensors")
    save_file({"emb_params": torch.randn(2, 768) / 50}, embeddings / "style-sd1.safetensors")


def sd1_shapes() -> dict[str, tuple[int, ...]]:
    """The text encoder of an SD 1.x checkpoint, and a bit of its UNet."""
    home, width = "cond_stage_model.transformer.text_model.", 768
    shapes: dict[str, tuple[int, ...]] = {
        f"{home}embeddings.token_embedding.weight": (49408, width),
        f"{home}embeddings.position_embedding.weight": (77, width),
        f"{home}final_layer_norm.weight": (width,),
        f"{home}final_layer_norm.bias": (width,),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    }
    inner: dict[str, tuple[int, int]] = {
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
        **{f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")},
    }
    for layer in range(12):
        block = f"{home}encoder.layers.{layer}."
        for name, shape in inner.items():
            shapes[f"{block}{name}.weight"] = shape
            shapes[f"{block}{name}.bias"] = shape[:1]
        for norm in ("layer_norm1", "layer_norm2"):
            shapes[f"{block}{norm}.weight"] = shapes[f"{block}{norm}.bias"] = (width,)
    return shapes


def write_expanded(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A file of F16 tensors that repeat one value, which takes no room on the disk either.

    Unlike a hole it is not taken for an incomplete download.
    """
    import torch

    one = torch.full((), 0.5, dtype=torch.float16)
    torch.save({name: one.clone().expand(shape) for name, shape in shapes.items()}, path)


def write_hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of F16 whose data is one big hole, which takes no room on the disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for length in shape:
            size *= length
        header[name] = {
            "dtype": "F16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
