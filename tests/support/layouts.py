"""Writes files in every layout in which SD2's text encoder is found, with seeded random weights.

Names and conversions are written out here once more, apart from ``sd2/``, so that the two check
each other. As a command::

    python tests/support/layouts.py sd21 OUT.safetensors   # or OUT.ckpt: a whole SD 2.1, 5.2 GB
    python tests/support/layouts.py tiny FOLDER            # every layout, 32 wide
"""

from __future__ import annotations

import argparse
import json
import mmap
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from model_shapes import (
    TINY_CONFIG,
    openclip_vision,
    sd21,
    transformers_text,
    transformers_vision,
)
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
Config = Mapping[str, int]

DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


# The encoder


def seeded(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Values of OpenCLIP's own initialisation, so that activations stay of a natural size."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) ^ seed)
    if name.endswith("logit_scale"):
        return torch.tensor(4.6052)
    values = torch.randn(shape, generator=generator)
    if "norm" in name or "ln_" in name:
        return values.mul_(0.1).add_(1.0 if name.endswith("weight") else 0.0)
    if len(shape) == 1:
        return values.mul_(0.02)
    if "position" in name:
        return values.mul_(0.01)
    if "token_embedding" in name:
        return values.mul_(0.02)
    return values.mul_(shape[-1] ** -0.5)


def canonical_encoder(
    config: Config = TINY_CONFIG, seed: int = 0, dtype: torch.dtype = torch.float32
) -> State:
    """A complete encoder: transformers' names, ``text_projection.weight``, ``logit_scale``."""
    shapes = transformers_text(dict(config), projection=True) | {"logit_scale": ()}
    return {name: seeded(name, shape, seed).to(dtype) for name, shape in shapes.items()}


def first_layers(encoder: State, layers: int) -> State:
    """Without the layers from number *layers* on."""
    return {
        name: tensor
        for name, tensor in encoder.items()
        if ".layers." not in name or int(name.split(".layers.")[1].split(".")[0]) < layers
    }


def text_model_only(encoder: State) -> State:
    return {name: tensor for name, tensor in encoder.items() if name.startswith("text_model.")}


def diffusers(encoder: State) -> State:
    """What every diffusers SD2 pipeline holds: without the last layer, without projection."""
    return text_model_only(first_layers(encoder, _last(encoder)))


def prefixed(prefix: str, encoder: State) -> State:
    return {prefix + name: tensor for name, tensor in encoder.items()}


_OPENCLIP = {
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def openclip(encoder: State) -> State:
    """Under OpenCLIP's names: query, key and value stacked, the projection as a parameter."""
    result: State = {}
    for name, tensor in encoder.items():
        if name.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            continue
        if name == "text_projection.weight":
            result["text_projection"] = tensor.t().contiguous()
            continue
        if name == "text_model.embeddings.position_embedding.weight":
            result["positional_embedding"] = tensor
            continue
        renamed = name.removeprefix("text_model.")
        for theirs, ours in _OPENCLIP.items():
            renamed = renamed.replace(theirs, ours)
        if "self_attn.q_proj" in renamed:
            parts = [encoder[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            renamed = renamed.replace("self_attn.q_proj.", "attn.in_proj_")
            tensor = torch.cat(parts)
        result[renamed] = tensor
    return result


# What lies beside it in the file (tiny: only what detection looks at)


def _zeros(shapes: Mapping[str, tuple[int, ...]]) -> State:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def in_checkpoint(prefix: str, encoder: State, config: Config, inputs: int = 4) -> State:
    """Among a UNet and a VAE, as in an ldm checkpoint."""
    unet = "model.diffusion_model.input_blocks"
    beside = {
        f"{unet}.0.0.weight": (8, inputs, 3, 3),
        f"{unet}.2.1.transformer_blocks.0.attn2.to_k.weight": (8, config["hidden_size"]),
        "model.diffusion_model.output_blocks.0.0.in_layers.0.weight": (8,),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    }
    return _zeros(beside) | prefixed(prefix, encoder)


def _vision() -> State:
    return _zeros({k: s for k, s in openclip_vision(layers=1).items() if len(s) == 1})


def _transformers_vision() -> State:
    return _zeros({k: s for k, s in transformers_vision(layers=1).items() if len(s) == 1})


def _headless(encoder: State) -> State:
    kept = ("token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias",
            "text_projection", "logit_scale")  # fmt: skip
    copied = {name: openclip(encoder)[name].clone() for name in kept}
    return prefixed("embedder.model.", copied | _vision())


def kohya(encoder: State) -> State:
    """kohya's dummy weights: a copy of the layer before, ones, and a logit scale of 1."""
    last = _last(encoder)
    result = dict(encoder)
    for name in encoder:
        if f".layers.{last}." in name:
            result[name] = encoder[name.replace(f".layers.{last}.", f".layers.{last - 1}.")].clone()
    result["text_projection.weight"] = torch.ones_like(encoder["text_projection.weight"])
    result["logit_scale"] = torch.ones_like(encoder["logit_scale"])
    return result


def garbage(encoder: State, value: float) -> State:
    """Unset memory in the last layer and the projection, as CLIPSave writes after 23 layers."""
    last = f".layers.{_last(encoder)}."
    return {
        name: torch.full_like(tensor, value) if last in name or "projection" in name else tensor
        for name, tensor in encoder.items()
    }


def completed(encoder: State) -> State:
    """The last layer and the projection as stand-ins that change nothing."""
    last, result = f".layers.{_last(encoder)}.", garbage(encoder, 0.0)
    for name in encoder:
        if last in name and "norm" in name and name.endswith("weight"):
            result[name] = torch.ones_like(encoder[name])
    result["text_projection.weight"] = torch.eye(len(encoder["text_projection.weight"]))
    return result


def _last(encoder: State) -> int:
    """Number of the last layer."""
    return max(int(n.split(".layers.")[1].split(".")[0]) for n in encoder if ".layers." in n)


# The matrix


@dataclass(frozen=True)
class Case:
    """A layout: how it is built from an encoder, and what is to be found in it."""

    name: str
    row: str
    """Number of the layout in the project's table of layouts."""
    build: Callable[[State, Config], State]
    layout: str
    prefix: str
    short: bool = False
    """Only 23 of the 24 layers are real."""
    projection: bool = True
    save: str = "safetensors"
    wrap: Callable[[State], Any] = dict
    dtype: torch.dtype = torch.float32
    extras: tuple[str, ...] = ()
    """Pieces of sentences that detection or examination must give."""


def _ldm(encoder: State, config: Config) -> State:
    return in_checkpoint("cond_stage_model.model.", openclip(encoder), config)


def _position_ids(prefix: str, *, spoiled: bool = False) -> State:
    ids = torch.arange(77)[None]
    return {f"{prefix}position_ids": ids + 0.5 if spoiled else ids}


LDM = ("ldm checkpoint", "cond_stage_model.model.")
HF = "text_model."

CASES = (
    Case("ldm", "1", _ldm, *LDM),
    Case("ldm-ckpt", "1", _ldm, *LDM, save="zip",
         wrap=lambda s: {"state_dict": OrderedDict(s), "global_step": 3}),
    Case("ldm-ckpt-legacy", "1", _ldm, *LDM, save="legacy", wrap=lambda s: {"state_dict": s}),
    Case("ldm-ckpt-compressed", "1", _ldm, *LDM, save="zip-deflated"),
    Case("ldm-fp16", "1", _ldm, *LDM, dtype=torch.float16),
    Case("ldm-bf16", "1", _ldm, *LDM, dtype=torch.bfloat16),
    Case("ldm-fp16-ckpt", "1", _ldm, *LDM, dtype=torch.float16, save="zip"),
    Case("inpainting", "1", lambda e, c: in_checkpoint(LDM[1], openclip(e), c, inputs=9), *LDM),
    Case("unclip-h", "1", lambda e, c: _headless(e) | _ldm(e, c), *LDM, extras=("copy without",)),
    Case("ldm-stray-position-ids", "1",
         lambda e, c: _ldm(e, c) | _position_ids(LDM[1] + "transformer.text_model.embeddings."),
         *LDM),
    Case("sgm", "2",
         lambda e, c: in_checkpoint("conditioner.embedders.0.model.", openclip(e), c),
         "sgm checkpoint", "conditioner.embedders.0.model."),
    Case("sgm-without-projection", "2",
         lambda e, c: in_checkpoint("conditioner.embedders.0.model.",
                                    openclip(text_model_only(e)), c),
         "sgm checkpoint", "conditioner.embedders.0.model.", projection=False),
    Case("openclip-full", "3", lambda e, c: openclip(e) | _vision(), "OpenCLIP model", ""),
    Case("openclip-full-bin", "3", lambda e, c: openclip(e) | _vision(), "OpenCLIP model", "",
         save="zip"),
    Case("openclip-text", "3", lambda e, c: openclip(e), "OpenCLIP text encoder", ""),
    Case("openclip-custom-text", "3",
         lambda e, c: {n if n == "logit_scale" else f"text.{n}": t for n, t in openclip(e).items()}
         | _vision(), "OpenCLIP model", "text."),
    Case("transformers-full", "4", lambda e, c: e | _transformers_vision()
         | _position_ids("text_model.embeddings."), "transformers CLIP model", HF),
    Case("diffusers", "5", lambda e, c: diffusers(e), "diffusers text encoder", HF,
         short=True, projection=False),
    Case("diffusers-fp16", "5", lambda e, c: diffusers(e), "diffusers text encoder", HF,
         short=True, projection=False, dtype=torch.float16),
    Case("diffusers-folder", "5", lambda e, c: diffusers(e), "diffusers text encoder", HF,
         short=True, projection=False, save="folder"),
    Case("diffusers-folder-bin", "5", lambda e, c: diffusers(e), "diffusers text encoder", HF,
         short=True, projection=False, save="folder-bin"),
    Case("diffusers-pipeline", "5", lambda e, c: diffusers(e), "diffusers text encoder", HF,
         short=True, projection=False, save="pipeline"),
    Case("diffusers-spoiled-position-ids", "5",
         lambda e, c: diffusers(e) | _position_ids("text_model.embeddings.", spoiled=True),
         "diffusers text encoder", HF, short=True, projection=False),
    Case("flattened", "6",
         lambda e, c: {n.removeprefix(HF): t for n, t in diffusers(e).items()},
         "flattened transformers text encoder", "", short=True, projection=False),
    Case("inside-text-encoder", "7", lambda e, c: prefixed("text_encoder.", diffusers(e)),
         "transformers text encoder inside another model", "text_encoder.text_model.",
         short=True, projection=False),
    Case("inside-research-bundle", "7",
         lambda e, c: prefixed("model.sd.text_encoder.", diffusers(e)),
         "transformers text encoder inside another model",
         "model.sd.text_encoder.text_model.", short=True, projection=False),
    Case("transformers-in-checkpoint", "7",
         lambda e, c: in_checkpoint("cond_stage_model.transformer.", diffusers(e), c),
         "transformers text encoder inside another model",
         "cond_stage_model.transformer.text_model.", short=True, projection=False),
    Case("bundle-of-dicts", "7", lambda e, c: diffusers(e),
         "transformers text encoder inside another model", "text_encoder.text_model.",
         short=True, projection=False, save="zip",
         wrap=lambda s: {"text_encoder": s, "unet": {"conv_in.bias": torch.zeros(4)}, "step": 7}),
    Case("clipsave", "8", lambda e, c: e, "ComfyUI CLIPSave", HF),
    Case("clipsave-garbage-nan", "8", lambda e, c: garbage(e, float("nan")), "ComfyUI CLIPSave", HF,
         short=True, projection=False, extras=("Layer 4 is a placeholder",)),
    Case("clipsave-garbage-zero", "8", lambda e, c: garbage(e, 0.0), "ComfyUI CLIPSave", HF,
         short=True, projection=False, extras=("placeholder: its layer norms are all",)),
    Case("clipsave-garbage-denormal", "8", lambda e, c: garbage(e, 1e-41), "ComfyUI CLIPSave", HF,
         short=True, projection=False, extras=("Layer 4 is a placeholder",)),
    Case("clipsave-garbage-fp16", "8", lambda e, c: garbage(e, float("inf")), "ComfyUI CLIPSave",
         HF, short=True, projection=False, dtype=torch.float16, extras=("placeholder",)),
    Case("clipsave-completed", "8", lambda e, c: completed(e), "ComfyUI CLIPSave", HF,
         short=True, projection=False, extras=("changes nothing",)),
    Case("old-clipsave", "9",
         lambda e, c: {n: t for n, t in e.items() if "projection" not in n}
         | {"text_projection": e["text_projection.weight"].t().contiguous()},
         "old ComfyUI CLIPSave", HF, extras=("old name",)),
    Case("clip-h-dump", "10",
         lambda e, c: {("clip_h." if n == "logit_scale" else "clip_h.transformer.") + n: t
                       for n, t in e.items()},
         "ComfyUI state dump (old CLIPSave)", "clip_h.transformer.text_model."),
    Case("text-encoders-dump", "10",
         lambda e, c: {("text_encoders.clip_h." if n == "logit_scale"
                        else "text_encoders.clip_h.transformer.") + n: t for n, t in e.items()},
         "ComfyUI state dump", "text_encoders.clip_h.transformer.text_model."),
    Case("checkpointsave", "11", _ldm, *LDM),
    Case("kohya", "12", lambda e, c: _ldm(kohya(e), c), *LDM, short=True, projection=False,
         extras=("copy of layer 3", "all ones")),
    Case("kohya-fp16-ckpt", "12", lambda e, c: _ldm(kohya(e), c), *LDM, short=True,
         projection=False, dtype=torch.float16, save="zip", extras=("copy of layer 3",)),
    Case("commoncanvas", "13",
         lambda e, c: in_checkpoint(LDM[1], openclip(diffusers(e)), c), *LDM, short=True,
         projection=False),
    Case("commoncanvas-sgm", "13",
         lambda e, c: in_checkpoint("conditioner.embedders.0.model.", openclip(diffusers(e)), c),
         "sgm checkpoint", "conditioner.embedders.0.model.", short=True, projection=False),
    Case("ddp", "14", lambda e, c: prefixed("module.", openclip(e)),
         "OpenCLIP text encoder in a 'module.' wrapper", "module."),
    Case("ddp-in-state-dict", "14", lambda e, c: prefixed("module.", openclip(e) | _vision()),
         "OpenCLIP model in a 'module.' wrapper", "module.", save="zip",
         wrap=lambda s: {"epoch": 1, "state_dict": s, "name": "run"}),
    Case("model-wrapper", "14", lambda e, c: diffusers(e), "diffusers text encoder", HF,
         short=True, projection=False, save="zip", wrap=lambda s: {"model": s, "step": 2}),
    Case("single-key-wrapper", "14", lambda e, c: diffusers(e), "diffusers text encoder", HF,
         short=True, projection=False, save="zip", wrap=lambda s: {"weights": s}),
    Case("sharded", "14", lambda e, c: diffusers(e), "diffusers text encoder", HF, short=True,
         projection=False, save="sharded"),
    Case("sharded-bin", "14", lambda e, c: diffusers(e), "diffusers text encoder", HF, short=True,
         projection=False, save="sharded-bin"),
    Case("parameters", "14", lambda e, c: e, "ComfyUI CLIPSave", HF, save="zip",
         wrap=lambda s: OrderedDict((n, torch.nn.Parameter(t)) for n, t in s.items())),
    Case("views-of-one-storage", "14", lambda e, c: _views(e), "ComfyUI CLIPSave", HF, save="zip"),
    Case("views-of-one-storage-legacy", "14", lambda e, c: _views(e), "ComfyUI CLIPSave", HF,
         save="legacy"),
)  # fmt: skip


def _views(encoder: State) -> State:
    """All square matrices of a layer as transposed slices of one stacked tensor."""
    result = dict(encoder)
    for layer in range(_last(encoder) + 1):
        start = f"text_model.encoder.layers.{layer}.self_attn."
        names = [f"{start}{part}_proj.weight" for part in ("q", "k", "v")]
        stacked = torch.stack([encoder[name].t() for name in names])
        result.update({name: stacked[index].t() for index, name in enumerate(names)})
    return result


def expected_encoder(case: Case, config: Config = TINY_CONFIG, seed: int = 0) -> State:
    """The real tensors that must come out of the case's file, under canonical names."""
    encoder = canonical_encoder(config, seed, case.dtype)
    if case.short:
        encoder = first_layers(encoder, config["num_hidden_layers"] - 1)
    if not case.projection:
        encoder.pop("text_projection.weight")
    encoder.pop("logit_scale")
    return encoder


# Files


def write_case(case: Case, folder: Path, config: Config = TINY_CONFIG, seed: int = 0) -> Path:
    """Writes the case's file or folder into *folder*, and returns what a user would name."""
    state = case.build(canonical_encoder(config, seed), config)
    state = {name: t.to(case.dtype) if t.is_floating_point() else t for name, t in state.items()}
    place = folder / case.name
    folder.mkdir(parents=True, exist_ok=True)
    if case.save == "safetensors":
        return save_safetensors(state, place.with_suffix(".safetensors"))
    if case.save in ("zip", "legacy", "zip-deflated"):
        return save_pickle(case.wrap(state), place.with_suffix(".ckpt"), case.save)
    place.mkdir()
    if case.save == "pipeline":
        (place / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        (place / "unet").mkdir()
        inner = place / "text_encoder"
        inner.mkdir()
        (inner / "config.json").write_text("{}")
        save_safetensors({n: t.half() for n, t in state.items()}, inner / "model.fp16.safetensors")
        save_safetensors(state, inner / "model.safetensors")
        save_pickle(state, inner / "pytorch_model.bin")
    elif case.save == "folder":
        save_safetensors(state, place / "model.safetensors")
    elif case.save == "folder-bin":
        save_pickle(state, place / "pytorch_model.bin")
        torch.save({"lr": 1.0}, place / "training_args.bin")
    else:
        save_shards(state, place, pickled=case.save == "sharded-bin")
    return place


def case_writer(folder: Path) -> Callable[[Case], Path]:
    """A function that writes a case the first time it is asked for it."""
    return cache(lambda case: write_case(case, folder))


def save_safetensors(state: State, path: Path) -> Path:
    save_file(state, path, {"format": "pt"})
    return path


def save_pickle(value: Any, path: Path, form: str = "zip") -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=form != "legacy")
    if form == "zip-deflated":
        repack(path)
    return path


def repack(path: Path) -> None:
    """The same zip file, its entries compressed, as some upload sites and archivers leave it."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)


def save_shards(state: State, folder: Path, *, pickled: bool = False, shards: int = 3) -> None:
    """As save_pretrained does with a small ``max_shard_size``."""
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    names = list(state)
    weight_map = {}
    for number in range(shards):
        part = {name: state[name] for name in names[number::shards]}
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{suffix}"
        (save_pickle if pickled else save_safetensors)(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


# Full size


def write_sd21(path: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
    """A whole SD 2.1: a seeded text encoder, and zeros for UNet and VAE, in their real shapes."""
    shapes = sd21()
    if path.suffix == ".safetensors":
        _stream_safetensors(shapes, path, seed, dtype)
        return
    state = OrderedDict(
        (name, _full_size(name, shape, seed, dtype)) for name, shape in shapes.items()
    )
    torch.save({"state_dict": state, "global_step": 110000}, path)


def _full_size(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    if name.startswith("cond_stage_model."):
        return seeded(name.removeprefix("cond_stage_model.model."), shape, seed).to(dtype)
    # Pages of a private mapping that are only read cost no memory; torch.zeros writes its zeros.
    size = torch.Size(shape).numel()
    mapping = mmap.mmap(-1, max(size, 1) * dtype.itemsize, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapping, dtype=dtype, count=size).view(shape)


def _stream_safetensors(
    shapes: Mapping[str, tuple[int, ...]], path: Path, seed: int, dtype: torch.dtype
) -> None:
    """Tensor by tensor: only one is in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):  # as the safetensors library orders tensors of one type
        begin, end = end, end + torch.Size(shapes[name]).numel() * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shapes[name]),
                        "data_offsets": [begin, end]}  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(shapes):
            tensor = _full_size(name, shapes[name], seed, dtype)
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write model files with seeded random weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("sd21", help="a whole SD 2.1 checkpoint at its real size")
    whole.add_argument("out", type=Path, help="OUT.safetensors or OUT.ckpt")
    whole.add_argument("--seed", type=int, default=0)
    whole.add_argument("--dtype", choices=["fp32", "fp16"], default="fp32")
    tiny = commands.add_parser("tiny", help="every layout, 32 wide")
    tiny.add_argument("out", type=Path, help="a folder")
    arguments = parser.parse_args()
    if arguments.command == "sd21":
        dtype = torch.float16 if arguments.dtype == "fp16" else torch.float32
        write_sd21(arguments.out, arguments.seed, dtype)
    else:
        for case in CASES:
            write_case(case, arguments.out)


if __name__ == "__main__":
    main()
