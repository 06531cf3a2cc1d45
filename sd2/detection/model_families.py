"""Names the model in a file without SD2's text encoder, and other models in a file that has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..config import CONTEXT_WIDTHS, TEXT_ENCODER_WIDTHS, TextEncoderConfig
from ..errors import and_more
from ..files.checkpoint import Checkpoint, TensorInfo
from ..files.file_kinds import USE_CONDITIONING_LOADER, is_conditioning
from .clip_towers import Tower

FAMILY = "Stable Diffusion 2.x (OpenCLIP ViT-H/14)"

VISION_WIDTH = 1280
"""Of ViT-H/14's vision tower. Other OpenCLIP models have a text tower of the same size."""
VISION_POSITIONS = 257
"""16 x 16 patches of 14 pixels, and the class token: images of 224 pixels."""

MOST_ADDED_TOKENS = 1024
"""Training of textual inversions adds rows to the token table; more mean another vocabulary."""

CHOOSE = (
    "Choose a file with the OpenCLIP ViT-H/14 text encoder: an SD 2.x checkpoint, or the "
    "text_encoder folder (model.safetensors) of an SD 2.x diffusers pipeline"
)


def refuse_tower(
    tower: Tower, tensors: Mapping[str, TensorInfo], config: TextEncoderConfig
) -> str | None:
    """Why *tower* is not SD2's text encoder; None if it is, complete or broken."""
    if tower.is_vision:
        return "a vision tower"
    if tower.width != config.hidden_size:
        known = TEXT_ENCODER_WIDTHS.get(tower.width or 0, "of no Stable Diffusion model known here")
        return f"a text encoder {tower.width} wide ({known}), not {config.hidden_size}"
    if tower.blocks == 0:
        return "a token embedding without transformer blocks (unCLIP-h files have such a copy)"
    positions, vocabulary = tower.positions, tower.vocabulary
    if positions is None and vocabulary is None:
        return "transformer blocks without a token embedding"
    if positions == 248:
        return "Long-CLIP, with 248 positions instead of 77"
    if vocabulary == 32000 or positions in (16, 32):
        tokens = "an unknown number of" if vocabulary is None else f"{vocabulary:,}"
        return f"CLIPA, with {tokens} tokens and {positions} positions"
    if positions not in (None, config.max_position_embeddings):
        return (
            f"a text encoder for {positions} positions instead of {config.max_position_embeddings}"
        )
    added = 0 if vocabulary is None else vocabulary - config.vocab_size
    if not 0 <= added <= MOST_ADDED_TOKENS:
        return f"a text encoder with {vocabulary:,} tokens instead of {config.vocab_size:,}"
    if tower.blocks == 12 and config.num_hidden_layers == 24:
        return "OpenAI's CLIP RN50x64, as wide as SD2's but with 12 layers"
    if tower.blocks > config.num_hidden_layers:
        return f"a text encoder with {tower.blocks} layers instead of {config.num_hidden_layers}"
    return _refuse_vision(_vision_shape(tower, tensors))


def _vision_shape(tower: Tower, tensors: Mapping[str, TensorInfo]) -> tuple[int | None, int | None]:
    """Width and positions of the vision tower of a text tower's model; None if it has none."""
    home = tower.prefix.removesuffix("text_model.").removesuffix("text.")
    width = positions = None
    if any(name.startswith((f"{home}visual.", f"{home}vision_model.")) for name in tensors):
        width = 0  # not a plain vision transformer
    for inner in ("visual.", "vision_model.embeddings."):
        found = tensors.get(f"{home}{inner}class_embedding")
        width = found.shape[-1] if found and found.shape else width
        for end in ("positional_embedding", "position_embedding.weight"):
            place = tensors.get(home + inner + end)
            positions = place.shape[0] if place and place.shape else positions
    return width, positions


def _refuse_vision(shape: tuple[int | None, int | None]) -> str | None:
    """Refuse ViT-g/14, ConvNeXt-XXL and EVA, whose text towers have the size of ViT-H/14's."""
    width, _ = shape
    if width in (None, VISION_WIDTH):
        return None
    what = f"is {width} wide" if width else "is not a plain vision transformer"
    return (
        f"a text encoder of SD2's size, but the vision tower of its model {what} (ViT-H/14's is "
        f"{VISION_WIDTH} wide): another model with other weights"
    )


def contents(
    tensors: Mapping[str, TensorInfo], towers: Sequence[Tower], config: TextEncoderConfig
) -> tuple[list[str], list[str]]:
    """Other models in the file, and warnings about those that do not fit SD2's text encoder."""
    parts, warnings = [], []
    for tower in towers:
        if tower.is_vision:
            parts.append(f"vision tower at {tower.prefix!r}, {tower.width} wide")
        elif tower.blocks and tower.width != config.hidden_size:
            parts.append(f"another text encoder at {tower.prefix!r}, {tower.width} wide")
    for tower in towers:
        _, positions = _vision_shape(tower, tensors)
        if not tower.is_vision and tower.blocks and positions not in (None, VISION_POSITIONS):
            warnings.append(
                f"The vision tower has {positions} positions, not {VISION_POSITIONS}: probably "
                "DFN's ViT-H/14 for larger images, whose text encoder SD2 was not trained with."
            )
    context = _context_width(tensors)
    if context is not None:
        parts.append(f"UNet for conditioning {context} wide{_unet_kind(tensors)}")
        if context != config.hidden_size:
            warnings.append(
                f"The UNet in this file takes conditioning {context} wide, but its text encoder "
                f"gives {config.hidden_size}."
            )
    if any(name.startswith("first_stage_model.") for name in tensors):
        parts.append("VAE")
    return parts, warnings


def _context_width(tensors: Mapping[str, TensorInfo]) -> int | None:
    """Width of the conditioning that a UNet in the file takes."""
    for name, info in tensors.items():
        if name.endswith("attn2.to_k.weight") and len(info.shape) == 2:
            return info.shape[1]
    return None


def _unet_kind(tensors: Mapping[str, TensorInfo]) -> str:
    first = tensors.get("model.diffusion_model.input_blocks.0.0.weight")
    channels = first.shape[1] if first and len(first.shape) == 4 else None
    kinds = {5: "depth", 7: "x4 upscaler", 9: "inpainting"}
    return f" ({kinds[channels]})" if channels in kinds else ""


@dataclass(frozen=True)
class _Names:
    """The tensors of a file, searched by parts of their names."""

    tensors: Mapping[str, TensorInfo]
    towers: Sequence[Tower]
    metadata: Mapping[str, str]

    def any_part(self, *parts: str) -> bool:
        return any(part in name for name in self.tensors for part in parts)

    def any_start(self, *starts: str) -> bool:
        return any(name.startswith(starts) for name in self.tensors)

    def any_end(self, *ends: str) -> bool:
        return any(name.endswith(ends) for name in self.tensors)

    def text_widths(self) -> set[int]:
        return {
            t.width for t in self.towers if not t.is_vision and t.blocks and t.width is not None
        }


def _conditioning(names: _Names) -> str | None:
    shapes = {name: info.shape for name, info in names.tensors.items()}
    return USE_CONDITIONING_LOADER if is_conditioning(shapes, names.metadata) else None


def _lora(names: _Names) -> str | None:
    parts = (".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", "lora_linear_layer", "_lora.up.",
             ".hada_w1_", ".lokr_w", "lora.down.weight", ".lora_A", ".lora_down",
             ".oft_blocks", ".a1.weight", ".diff_b", ".set_weight")  # fmt: skip
    if names.any_part(*parts) or names.any_end(".diff"):
        return "a LoRA file: changes to a model, not a model. Use it with a LoRA loader"
    return None


def _textual_inversion(names: _Names) -> str | None:
    vectors = [info.shape[-1] for info in names.tensors.values() if 1 <= len(info.shape) <= 2]
    few = 0 < len(names.tensors) <= 8 and len(vectors) == len(names.tensors)
    wide = all(width in (768, 1024, 1280, 2048, 4096) for width in vectors)
    if names.any_start("string_to_param", "emb_params") or (few and wide):
        return (
            "a textual inversion (embedding). Put it into the embeddings folder and write "
            "embedding:its-name in the text"
        )
    return None


def _controlnet(names: _Names) -> str | None:
    if names.any_start("control_model.", "controlnet_") or names.any_part("controlnet_cond_embed"):
        return "a ControlNet. Use it with a ControlNet loader"
    return None


def _ip_adapter(names: _Names) -> str | None:
    if names.any_start("image_proj.", "ip_adapter."):
        return "an IP-Adapter. Use it with an IP-Adapter loader"
    return None


def _several_encoders(names: _Names) -> str | None:
    widths, t5 = names.text_widths(), names.any_part(".SelfAttention.q.weight")
    if names.any_part("joint_blocks."):
        return "Stable Diffusion 3"
    if names.any_part("double_blocks."):
        return "Flux"
    if {768, 1280} <= widths:
        return "text encoders of SD3 (CLIP-L, bigG, T5)" if t5 else "SDXL (CLIP-L and bigG)"
    return None


def _one_encoder(names: _Names) -> str | None:
    widths = names.text_widths()
    unet = _context_width(names.tensors)
    if any(not t.is_vision and t.positions == 248 for t in names.towers):
        return "a Long-CLIP text encoder, which is not SD2's"
    if any(t.vocabulary == 32000 for t in names.towers):
        return "a CLIPA model, whose text encoder has another vocabulary"
    if 1280 in widths:
        if names.any_start("model.diffusion_model."):
            return "the SDXL refiner (OpenCLIP bigG)"
        return "OpenCLIP bigG, SDXL's second text encoder"
    if 768 in widths:
        if unet == 768:
            return "Stable Diffusion 1.x (CLIP-L)"
        return "CLIP-L, the text encoder of Stable Diffusion 1.x"
    return None


def _language_model(names: _Names) -> str | None:
    if names.any_part(".SelfAttention.q.weight"):
        return "a T5 text encoder, which SD3, Flux and video models use"
    if names.any_part("model.embed_tokens.weight", "lm_head.weight"):
        return "a language model"
    if names.any_part("attention.self.query.weight"):
        return "a BERT-like text encoder (as in AltDiffusion and multilingual CLIP)"
    return None


def _vision_only(names: _Names) -> str | None:
    vision = [tower for tower in names.towers if tower.is_vision]
    if not vision or names.text_widths():
        return None
    if vision[0].width == VISION_WIDTH and vision[0].blocks == 32:
        return (
            "the vision tower of ViT-H/14 alone. A file named "
            "CLIP-ViT-H-14-laion2B-s32B-b79K in models/clip_vision is for IP-Adapter "
            "and has no text encoder"
        )
    return "a CLIP vision tower alone, without a text encoder"


def _parts_of_stable_diffusion(names: _Names) -> str | None:
    unet = names.any_start("model.diffusion_model.", "input_blocks.", "down_blocks.")
    unet = unet and names.any_part("output_blocks.", "up_blocks.")
    context = _context_width(names.tensors)
    vae = names.any_start("first_stage_model.", "decoder.up", "encoder.down", "decoder.conv_in")
    if unet or context is not None:
        vae_too = " and VAE" if vae else ""
        whose = CONTEXT_WIDTHS.get(context or 0, "another model")
        return f"a checkpoint without a text encoder: the UNet{vae_too} of {whose}"
    if vae:
        return "a VAE alone"
    return None


_EXPLANATIONS: tuple[Callable[[_Names], str | None], ...] = (
    _conditioning,
    _lora,
    _controlnet,
    _ip_adapter,
    _several_encoders,
    _one_encoder,
    _language_model,
    _vision_only,
    _parts_of_stable_diffusion,
    _textual_inversion,
)


def explain_not_sd2(
    checkpoint: Checkpoint,
    towers: Sequence[Tower],
    reasons: Iterable[str],
    config: TextEncoderConfig,
) -> str:
    """The message for a file without SD2's text encoder: which model it is, and what to do."""
    names = _Names(checkpoint.tensors, towers, checkpoint.metadata)
    explanations = (explain(names) for explain in _EXPLANATIONS)
    what = next((found for found in explanations if found is not None), None)
    message = f"{checkpoint.path}: no SD2 text encoder found."
    if what is not None:
        message += f" This is {what}."
    listed = list(reasons)
    if listed:
        message += f" Looked at {and_more(listed, 4, '; ')}."
    if what is None and not listed:
        first = and_more([repr(name[:80]) for name in checkpoint.tensors], 4)
        message += f" It has no known text encoder; first keys: {first or 'none at all'}."
    return f"{message} {CHOOSE}."
