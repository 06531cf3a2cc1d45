"""Key to shape of whole models, made from their published architectures; no weights, no torch.

Generated, not read from files, and checked by the parameter counts their authors give (see
``test_model_shapes.py``).
"""

from collections.abc import Sequence

Shapes = dict[str, tuple[int, ...]]

SD2_CONFIG = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "projection_dim": 1024,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
}
"""SD2's text encoder. A plain dict, so that it can overlay any configuration."""

TINY_CONFIG = {
    **SD2_CONFIG,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "projection_dim": 32,
}
"""The same encoder, small enough to be made anew in every test."""

CLIP_L = {**SD2_CONFIG, "hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072,
          "projection_dim": 768}  # fmt: skip
BIG_G = {**SD2_CONFIG, "hidden_size": 1280, "num_hidden_layers": 32, "intermediate_size": 5120,
         "projection_dim": 1280}  # fmt: skip


def prefixed(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def _affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


# CLIP


def transformers_text(config: dict[str, int], *, projection: bool = False) -> Shapes:
    """transformers' names, beginning with "text_model."; without the token positions' buffer."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (config["vocab_size"], width),
        "embeddings.position_embedding.weight": (config["max_position_embeddings"], width),
    }
    shapes |= transformers_blocks(width, inner, config["num_hidden_layers"])
    shapes |= _affine("final_layer_norm", width)
    shapes = prefixed("text_model.", shapes)
    if projection:
        shapes["text_projection.weight"] = (config["projection_dim"], width)
    return shapes


def transformers_blocks(width: int, inner: int, layers: int) -> Shapes:
    shapes: Shapes = {}
    for layer in range(layers):
        block: Shapes = {}
        for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
            block |= _affine(f"self_attn.{part}", width, width)
        block |= _affine("layer_norm1", width) | _affine("layer_norm2", width)
        block |= _affine("mlp.fc1", inner, width) | _affine("mlp.fc2", width, inner)
        shapes |= prefixed(f"encoder.layers.{layer}.", block)
    return shapes


def openclip_text(config: dict[str, int]) -> Shapes:
    """OpenCLIP's names, with its projection and logit scale."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: Shapes = {
        "positional_embedding": (config["max_position_embeddings"], width),
        "text_projection": (width, config["projection_dim"]),
        "logit_scale": (),
        "token_embedding.weight": (config["vocab_size"], width),
    }
    shapes |= prefixed("transformer.", openclip_blocks(width, inner, config["num_hidden_layers"]))
    return shapes | _affine("ln_final", width)


def openclip_blocks(width: int, inner: int, layers: int) -> Shapes:
    shapes: Shapes = {}
    for layer in range(layers):
        block = _affine("ln_1", width) | _affine("ln_2", width)
        block |= {"attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,)}
        block |= _affine("attn.out_proj", width, width)
        block |= _affine("mlp.c_fc", inner, width) | _affine("mlp.c_proj", width, inner)
        shapes |= prefixed(f"resblocks.{layer}.", block)
    return shapes


def openclip_vision(width: int = 1280, layers: int = 32, positions: int = 257) -> Shapes:
    """ViT-H/14's vision tower under OpenCLIP's names, "visual." included."""
    shapes: Shapes = {
        "class_embedding": (width,),
        "positional_embedding": (positions, width),
        "proj": (width, 1024),
        "conv1.weight": (width, 3, 14, 14),
    }
    shapes |= _affine("ln_pre", width) | _affine("ln_post", width)
    shapes |= prefixed("transformer.", openclip_blocks(width, 4 * width, layers))
    return prefixed("visual.", shapes)


def transformers_vision(width: int = 1280, layers: int = 32, positions: int = 257) -> Shapes:
    """The same under transformers' names, as in IP-Adapter's clip_vision file."""
    shapes: Shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.position_embedding.weight": (positions, width),
    }
    shapes |= _affine("pre_layrnorm", width) | _affine("post_layernorm", width)
    shapes |= transformers_blocks(width, 4 * width, layers)
    return prefixed("vision_model.", shapes) | {"visual_projection.weight": (1024, width)}


# The UNet of latent diffusion ("openaimodel"), without its prefix


def ldm_unet(
    *,
    context: int,
    linear: bool,
    channels: int = 320,
    multipliers: Sequence[int] = (1, 2, 4, 4),
    depths: Sequence[int] = (1, 1, 1, 0),
    middle_depth: int = 1,
    inputs: int = 4,
    labels: int | None = None,
) -> Shapes:
    """*depths*: transformer blocks per level; *labels*: width of the class embedding, if any."""
    time = channels * 4
    shapes = _affine("time_embed.0", time, channels) | _affine("time_embed.2", time, time)
    if labels is not None:
        shapes |= _affine("label_emb.0.0", time, labels) | _affine("label_emb.0.2", time, time)
    shapes |= _affine("input_blocks.0.0", channels, inputs, 3, 3)
    width, number, skips = channels, 1, [channels]
    for level, (multiplier, depth) in enumerate(zip(multipliers, depths, strict=True)):
        for _ in range(2):
            block = f"input_blocks.{number}"
            shapes |= _res_block(f"{block}.0", width, channels * multiplier, time)
            width = channels * multiplier
            shapes |= _attention(f"{block}.1", width, context, depth, linear=linear)
            skips.append(width)
            number += 1
        if level < len(multipliers) - 1:
            shapes |= _affine(f"input_blocks.{number}.0.op", width, width, 3, 3)
            skips.append(width)
            number += 1
    shapes |= _res_block("middle_block.0", width, width, time)
    shapes |= _attention("middle_block.1", width, context, middle_depth, linear=linear)
    shapes |= _res_block("middle_block.2", width, width, time)
    number = 0
    for level in reversed(range(len(multipliers))):
        for repeat in range(3):
            block = f"output_blocks.{number}"
            out = channels * multipliers[level]
            shapes |= _res_block(f"{block}.0", width + skips.pop(), out, time)
            width = out
            shapes |= _attention(f"{block}.1", width, context, depths[level], linear=linear)
            if level and repeat == 2:
                place = 2 if depths[level] else 1
                shapes |= _affine(f"{block}.{place}.conv", width, width, 3, 3)
            number += 1
    return shapes | _affine("out.0", width) | _affine("out.2", 4, width, 3, 3)


def _res_block(name: str, before: int, after: int, time: int) -> Shapes:
    shapes = _affine(f"{name}.in_layers.0", before)
    shapes |= _affine(f"{name}.in_layers.2", after, before, 3, 3)
    shapes |= _affine(f"{name}.emb_layers.1", after, time)
    shapes |= _affine(f"{name}.out_layers.0", after)
    shapes |= _affine(f"{name}.out_layers.3", after, after, 3, 3)
    if before != after:
        shapes |= _affine(f"{name}.skip_connection", after, before, 1, 1)
    return shapes


def _attention(name: str, width: int, context: int, depth: int, *, linear: bool) -> Shapes:
    if not depth:
        return {}
    projection = (width, width) if linear else (width, width, 1, 1)
    shapes = _affine(f"{name}.norm", width)
    shapes |= _affine(f"{name}.proj_in", *projection) | _affine(f"{name}.proj_out", *projection)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        for attention, source in (("attn1", width), ("attn2", context)):
            shapes[f"{block}.{attention}.to_q.weight"] = (width, width)
            shapes[f"{block}.{attention}.to_k.weight"] = (width, source)
            shapes[f"{block}.{attention}.to_v.weight"] = (width, source)
            shapes |= _affine(f"{block}.{attention}.to_out.0", width, width)
        shapes |= _affine(f"{block}.ff.net.0.proj", 8 * width, width)
        shapes |= _affine(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= _affine(f"{block}.{norm}", width)
    return shapes


# The VAE of latent diffusion, without its prefix


def ldm_vae() -> Shapes:
    widths = (128, 256, 512, 512)
    shapes = _affine("encoder.conv_in", 128, 3, 3, 3)
    width = 128
    for level, out in enumerate(widths):
        for number in range(2):
            shapes |= _vae_block(f"encoder.down.{level}.block.{number}", width, out)
            width = out
        if level < 3:
            shapes |= _affine(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    shapes |= _vae_middle("encoder") | _affine("encoder.norm_out", 512)
    shapes |= _affine("encoder.conv_out", 8, 512, 3, 3)
    shapes |= _affine("decoder.conv_in", 512, 4, 3, 3) | _vae_middle("decoder")
    for level in reversed(range(4)):
        for number in range(3):
            shapes |= _vae_block(f"decoder.up.{level}.block.{number}", width, widths[level])
            width = widths[level]
        if level:
            shapes |= _affine(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    shapes |= _affine("decoder.norm_out", 128) | _affine("decoder.conv_out", 3, 128, 3, 3)
    return shapes | _affine("quant_conv", 8, 8, 1, 1) | _affine("post_quant_conv", 4, 4, 1, 1)


def _vae_middle(half: str) -> Shapes:
    shapes = _vae_block(f"{half}.mid.block_1", 512, 512) | _vae_block(
        f"{half}.mid.block_2", 512, 512
    )
    shapes |= _affine(f"{half}.mid.attn_1.norm", 512)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= _affine(f"{half}.mid.attn_1.{part}", 512, 512, 1, 1)
    return shapes


def _vae_block(name: str, before: int, after: int) -> Shapes:
    shapes = _affine(f"{name}.norm1", before) | _affine(f"{name}.conv1", after, before, 3, 3)
    shapes |= _affine(f"{name}.norm2", after) | _affine(f"{name}.conv2", after, after, 3, 3)
    if before != after:
        shapes |= _affine(f"{name}.nin_shortcut", after, before, 1, 1)
    return shapes


# Whole files


_SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


def _schedule() -> Shapes:
    return dict.fromkeys(_SCHEDULE, (1000,))


def sd21(*, inputs: int = 4) -> Shapes:
    """v2-1_768-ema-pruned and its like; *inputs* 9 is inpainting, 5 depth."""
    unet = ldm_unet(context=1024, linear=True, inputs=inputs)
    return (
        _schedule()
        | prefixed("model.diffusion_model.", unet)
        | prefixed("first_stage_model.", ldm_vae())
        | prefixed("cond_stage_model.model.", openclip_text(SD2_CONFIG))
    )


def sd1() -> Shapes:
    text = transformers_text(CLIP_L)
    text["text_model.embeddings.position_ids"] = (1, 77)
    return (
        _schedule()
        | prefixed("model.diffusion_model.", ldm_unet(context=768, linear=False))
        | prefixed("first_stage_model.", ldm_vae())
        | prefixed("cond_stage_model.transformer.", text)
    )


def sdxl_unet() -> Shapes:
    return ldm_unet(
        context=2048, linear=True, multipliers=(1, 2, 4), depths=(0, 2, 10), middle_depth=10,
        labels=2816,
    )  # fmt: skip


def sdxl() -> Shapes:
    return (
        prefixed("model.diffusion_model.", sdxl_unet())
        | prefixed("first_stage_model.", ldm_vae())
        | prefixed("conditioner.embedders.0.transformer.", transformers_text(CLIP_L))
        | prefixed("conditioner.embedders.1.model.", openclip_text(BIG_G))
    )


def sdxl_refiner() -> Shapes:
    unet = ldm_unet(
        context=1280, linear=True, channels=384, depths=(0, 4, 4, 0), middle_depth=4, labels=2560
    )
    return (
        prefixed("model.diffusion_model.", unet)
        | prefixed("first_stage_model.", ldm_vae())
        | prefixed("conditioner.embedders.0.model.", openclip_text(BIG_G))
    )


def t5(layers: int = 24, width: int = 4096) -> Shapes:
    shapes: Shapes = {"shared.weight": (32128, width)}
    for layer in range(layers):
        block = f"encoder.block.{layer}.layer"
        for part in "qkvo":
            shapes[f"{block}.0.SelfAttention.{part}.weight"] = (width, width)
        shapes[f"{block}.0.layer_norm.weight"] = (width,)
        for part, shape in (
            ("wi_0", (10240, width)),
            ("wi_1", (10240, width)),
            ("wo", (width, 10240)),
        ):
            shapes[f"{block}.1.DenseReluDense.{part}.weight"] = shape
        shapes[f"{block}.1.layer_norm.weight"] = (width,)
    return shapes | {"encoder.final_layer_norm.weight": (width,)}


def kohya_lora(width: int = 1024, layers: int = 23) -> Shapes:
    shapes: Shapes = {}
    for layer in range(layers):
        for part in ("self_attn_q_proj", "self_attn_v_proj"):
            name = f"lora_te_text_model_encoder_layers_{layer}_{part}"
            shapes[f"{name}.lora_down.weight"] = (4, width)
            shapes[f"{name}.lora_up.weight"] = (width, 4)
            shapes[f"{name}.alpha"] = ()
    return shapes


def count(shapes: Shapes) -> int:
    """Numbers in all."""
    total = 0
    for shape in shapes.values():
        size = 1
        for dimension in shape:
            size *= dimension
        total += size
    return total
