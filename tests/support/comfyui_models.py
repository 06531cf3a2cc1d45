"""Model files for tests in a real ComfyUI: text encoders, a UNet, LoRAs; all seeded.

ComfyUI knows SD2's text encoder by its 23rd layer, and an SD2 checkpoint by the widths of its UNet.
So a small encoder is narrow but has 24 layers, and the UNet has SD2's widths in few, cheap blocks.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import layouts
import torch
from model_shapes import SD2_CONFIG
from safetensors.torch import save_file

State = dict[str, torch.Tensor]

CHANNELS, TIME, CONTEXT = 320, 1280, 1024

SMALL_CONFIG = {
    **SD2_CONFIG,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "projection_dim": 64,
}
"""24 layers, 64 wide; 3.3 million parameters, most of them the token table."""


def _random(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> State:
    state = {}
    for name, shape in shapes.items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            values *= (values[0].numel()) ** -0.5
        elif name.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.02
        state[name] = values.to(dtype)
    return state


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _residual(name: str, inputs: int) -> dict[str, tuple[int, ...]]:
    shapes = _affine(f"{name}.in_layers.0", inputs)
    shapes |= _affine(f"{name}.in_layers.2", CHANNELS, inputs, 3, 3)
    shapes |= _affine(f"{name}.emb_layers.1", CHANNELS, TIME)
    shapes |= _affine(f"{name}.out_layers.0", CHANNELS)
    shapes |= _affine(f"{name}.out_layers.3", CHANNELS, CHANNELS, 3, 3)
    if inputs != CHANNELS:
        shapes |= _affine(f"{name}.skip_connection", CHANNELS, inputs, 1, 1)
    return shapes


def _transformer(name: str) -> dict[str, tuple[int, ...]]:
    block = f"{name}.transformer_blocks.0"
    shapes = _affine(f"{name}.norm", CHANNELS)
    for part in ("proj_in", "proj_out"):
        shapes |= _affine(f"{name}.{part}", CHANNELS, CHANNELS)
    for attention, context in (("attn1", CHANNELS), ("attn2", CONTEXT)):
        shapes[f"{block}.{attention}.to_q.weight"] = (CHANNELS, CHANNELS)
        for part in ("to_k", "to_v"):
            shapes[f"{block}.{attention}.{part}.weight"] = (CHANNELS, context)
        shapes |= _affine(f"{block}.{attention}.to_out.0", CHANNELS, CHANNELS)
    shapes |= _affine(f"{block}.ff.net.0.proj", 8 * CHANNELS, CHANNELS)
    shapes |= _affine(f"{block}.ff.net.2", CHANNELS, 4 * CHANNELS)
    for norm in ("norm1", "norm2", "norm3"):
        shapes |= _affine(f"{block}.{norm}", CHANNELS)
    return shapes


def unet_shapes() -> dict[str, tuple[int, ...]]:
    """An SD2 UNet in ldm's names: four levels of two blocks each, all 320 channels wide.

    Only the uppermost level attends to the text, with one transformer block each.
    """
    shapes = _affine("time_embed.0", TIME, CHANNELS) | _affine("time_embed.2", TIME, TIME)
    shapes |= _affine("input_blocks.0.0", CHANNELS, 4, 3, 3)
    for level in range(4):
        for block in range(1 + 3 * level, 3 + 3 * level):
            shapes |= _residual(f"input_blocks.{block}.0", CHANNELS)
            if level == 0:
                shapes |= _transformer(f"input_blocks.{block}.1")
        if level < 3:
            shapes |= _affine(f"input_blocks.{3 + 3 * level}.0.op", CHANNELS, CHANNELS, 3, 3)
    shapes |= _residual("middle_block.0", CHANNELS) | _transformer("middle_block.1")
    shapes |= _residual("middle_block.2", CHANNELS)
    for block in range(12):
        shapes |= _residual(f"output_blocks.{block}.0", 2 * CHANNELS)
        if block >= 9:
            shapes |= _transformer(f"output_blocks.{block}.1")
        if block in (2, 5, 8):
            shapes |= _affine(f"output_blocks.{block}.1.conv", CHANNELS, CHANNELS, 3, 3)
    return shapes | _affine("out.0", CHANNELS) | _affine("out.2", 4, CHANNELS, 3, 3)


def unet(dtype: torch.dtype = torch.float16) -> State:
    return {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in _random(unet_shapes(), dtype).items()
    }


def lora(*, naming: str, width: int, inner: int, dora: bool = False, layers: int = 23) -> State:
    """A LoRA of rank 4 for the text encoder, under *naming*: kohya, kohya-te1, diffusers, peft."""
    prefix, separator, up, down = {
        "kohya": ("lora_te_text_model_", "_", "lora_up.weight", "lora_down.weight"),
        "kohya-te1": ("lora_te1_text_model_", "_", "lora_up.weight", "lora_down.weight"),
        "diffusers": ("text_encoder.text_model.", ".", "lora_linear_layer.up.weight",
                      "lora_linear_layer.down.weight"),
        "peft": ("text_encoder.text_model.", ".", "lora_B.weight", "lora_A.weight"),
        "flattened": ("text_encoder.", ".", "lora_B.weight", "lora_A.weight"),
    }[naming]  # fmt: skip
    state: State = {}
    for layer in range(layers):
        for module in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj",
                       "mlp.fc1", "mlp.fc2"):  # fmt: skip
            outputs = inner if module == "mlp.fc1" else width
            inputs = inner if module == "mlp.fc2" else width
            name = prefix + f"encoder.layers.{layer}.{module}".replace(".", separator)
            key = f"{layer}.{module}"
            made = _random({f"{key}.up": (outputs, 4), f"{key}.down": (4, inputs)}, torch.float32)
            state[f"{name}.{up}"] = made[f"{key}.up"] * 0.1
            state[f"{name}.{down}"] = made[f"{key}.down"]
            if naming.startswith("kohya"):
                state[f"{name}.alpha"] = torch.tensor(2.0)
            if dora:
                scale = _random({f"{key}.scale.weight": (inputs,)}, torch.float32)
                state[f"{name}.dora_scale"] = scale[f"{key}.scale.weight"][None]
    return state


def lycoris(kind: str, *, width: int, inner: int) -> State:
    """Changes of another *kind* than LoRA for the text encoder, under kohya's names."""
    state: State = {}
    for layer in range(23):
        for module in ("self_attn_k_proj", "mlp_fc1"):
            outputs = inner if module == "mlp_fc1" else width
            parts = {
                "loha": {"hada_w1_a": (outputs, 4), "hada_w1_b": (4, width),
                         "hada_w2_a": (outputs, 4), "hada_w2_b": (4, width)},
                "lokr": {"lokr_w1": (8, 8), "lokr_w2_a": (outputs // 8, 4),
                         "lokr_w2_b": (4, width // 8)},
                "diff": {"diff": (outputs, width)},
                "full": {"diff": (outputs, width), "diff_b": (outputs,)},
                "glora": {"a1.weight": (width, 4), "a2.weight": (4, width),
                          "b1.weight": (outputs, 4), "b2.weight": (4, width)},
                "oft": {"oft_blocks": (outputs // 8, 8, 8)},
                "set": {"set_weight": (outputs, width)},
            }[kind]  # fmt: skip
            name = f"lora_te_text_model_encoder_layers_{layer}_{module}"
            made = _random({f"{name}.{p}": shape for p, shape in parts.items()}, torch.float32)
            size = 1.0 if kind in ("loha", "glora") else 0.3  # products of four are small
            state.update({key: tensor * size for key, tensor in made.items()})
            if kind not in ("diff", "set"):
                state[f"{name}.alpha"] = torch.tensor(2.0)
    return state


def extracted(*, width: int, inner: int) -> State:
    """What ComfyUI's "Extract and Save Lora" writes: norms, biases and the position table, too."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(23):
        for name, outputs in (("layer_norm1", width), ("mlp.fc1", inner)):
            start = f"encoder.layers.{layer}.{name}"
            if name == "mlp.fc1":
                shapes[f"{start}.lora_up.weight"] = (outputs, 4)
                shapes[f"{start}.lora_down.weight"] = (4, width)
            else:
                shapes[f"{start}.diff"] = (outputs,)
            shapes[f"{start}.diff_b"] = (outputs,)
    shapes["final_layer_norm.diff"] = shapes["final_layer_norm.diff_b"] = (width,)
    shapes["embeddings.position_embedding.lora_up.weight"] = (77, 4)
    shapes["embeddings.position_embedding.lora_down.weight"] = (4, width)
    prefix = "text_encoders.clip_h.transformer.text_model."
    made = _random({prefix + name: shape for name, shape in shapes.items()}, torch.float32)
    return {name: tensor * 0.3 for name, tensor in made.items()}


def write_models(folder: Path, config: dict[str, int]) -> None:
    """Fills a models folder; about 1 GB with a small encoder and 5 GB with a full-size one."""
    for kind in ("checkpoints", "clip", "text_encoders", "loras", "embeddings", "diffusers"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    _write_encoders(folder, config)
    width, inner = config["hidden_size"], config["intermediate_size"]
    for naming in ("kohya", "kohya-te1", "diffusers", "peft", "flattened"):
        state = lora(naming=naming, width=width, inner=inner)
        layouts.save_safetensors(state, folder / "loras" / f"{naming}.safetensors")
    for kind in ("loha", "lokr", "diff", "full", "glora", "oft", "set"):
        state = lycoris(kind, width=width, inner=inner)
        layouts.save_safetensors(state, folder / "loras" / f"{kind}.safetensors")
    state = extracted(width=width, inner=inner)
    layouts.save_safetensors(state, folder / "loras" / "extracted.safetensors")
    state = lora(naming="peft", width=width, inner=inner)
    packed = json.dumps({"text_encoder.r": 4, "text_encoder.lora_alpha": 2})
    metadata = {"format": "pt", "lora_adapter_metadata": packed}
    save_file(state, folder / "loras" / "alpha-in-header.safetensors", metadata)
    state = lora(naming="kohya", dora=True, width=width, inner=inner)
    layouts.save_safetensors(state, folder / "loras" / "dora.safetensors")
    state = lora(naming="kohya", width=768, inner=3072, layers=12)
    layouts.save_safetensors(state, folder / "loras" / "sd1.safetensors")
    vectors = _random({"vectors": (3, width)}, torch.float32)["vectors"]
    layouts.save_safetensors({"emb_params": vectors}, folder / "embeddings" / "three.safetensors")


def _write_encoders(folder: Path, config: dict[str, int]) -> None:
    encoder = layouts.canonical_encoder(config, dtype=torch.float16)
    encoder["logit_scale"] = encoder["logit_scale"].float()
    other = layouts.canonical_encoder(config, seed=1, dtype=torch.float16)
    short, openclip = layouts.diffusers(encoder), layouts.openclip(encoder)
    whole = unet() | layouts.prefixed("cond_stage_model.model.", openclip)
    renamed = unet() | layouts.prefixed("cond_stage_model.transformer.", short)
    for name, state in {
        "checkpoints/sd21": whole,
        "checkpoints/transformers-names": renamed,
        "clip/encoder": encoder,
        "clip/other": other,
        "clip/openclip": openclip,
        "clip/23-layers": short,
        "clip/prefixed": layouts.prefixed("cond_stage_model.model.", openclip),
    }.items():
        layouts.save_safetensors(state, folder / f"{name}.safetensors")
    layouts.save_pickle({"state_dict": whole}, folder / "checkpoints" / "sd21.ckpt", "zip")
