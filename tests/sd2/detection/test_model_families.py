"""A file without SD2's text encoder is named for what it is."""

from pathlib import Path

import model_shapes as shapes
import pytest
from model_shapes import BIG_G, CLIP_L, SD2_CONFIG, openclip_text, transformers_text
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.errors import NotSD2Error
from sd2_clip.sd2.files.checkpoint import Checkpoint, TensorInfo


def header_only(tensors, metadata=None):
    """A checkpoint of which there are only names and shapes."""
    infos = {name: TensorInfo(shape, "F32") for name, shape in tensors.items()}
    return Checkpoint(Path("file.safetensors"), (), infos, metadata or {})


VISION = shapes.transformers_vision()
CLIPA = openclip_text({**SD2_CONFIG, "vocab_size": 32000, "max_position_embeddings": 32})
LONG_L = transformers_text({**CLIP_L, "max_position_embeddings": 248})
LONG_H = transformers_text({**SD2_CONFIG, "max_position_embeddings": 248})
VIT_G = openclip_text(SD2_CONFIG) | shapes.openclip_vision(1408, 40)
CONVNEXT = openclip_text(SD2_CONFIG) | {"visual.trunk.stem.0.weight": (384, 3, 4, 4)}
RN50X64 = openclip_text({**SD2_CONFIG, "num_hidden_layers": 12})
BERT = {"embeddings.word_embeddings.weight": (30522, 768),
        "encoder.layer.0.attention.self.query.weight": (768, 768)}  # fmt: skip
VAE = shapes.ldm_vae()
UNET = shapes.prefixed("model.diffusion_model.", shapes.ldm_unet(context=1024, linear=True))
FLUX = {"double_blocks.0.img_attn.qkv.weight": (9216, 3072), "txt_in.weight": (3072, 4096)}
SD3 = {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (4608, 1536)}
SD3_FULL = (
    SD3
    | shapes.prefixed("text_encoders.clip_l.transformer.", transformers_text(CLIP_L))
    | shapes.prefixed("text_encoders.clip_g.transformer.", transformers_text(BIG_G))
    | shapes.prefixed("text_encoders.t5xxl.transformer.", shapes.t5())
)  # fmt: skip

REFUSED = {
    "sd1": (shapes.sd1(), ["Stable Diffusion 1.x", "768"]),
    "clip-l": (transformers_text(CLIP_L), ["CLIP-L", "768"]),
    "clip-l-openclip": (openclip_text(CLIP_L), ["CLIP-L", "768"]),
    "sdxl": (shapes.sdxl(), ["SDXL (CLIP-L and bigG)", "768", "1280"]),
    "refiner": (shapes.sdxl_refiner(), ["SDXL refiner", "1280"]),
    "bigG": (transformers_text(BIG_G), ["bigG", "1280"]),
    "vision-only": (VISION, ["vision tower of ViT-H/14 alone", "clip_vision"]),
    "vision-only-L": (shapes.transformers_vision(1024, 24),
                      ["CLIP vision tower alone", "'vision_model.': a vision tower"]),
    "vit-g": (VIT_G, ["1408 wide", "another model"]),
    "convnext-xxl": (CONVNEXT, ["not a plain vision transformer"]),
    "rn50x64": (RN50X64, ["RN50x64"]),
    "clipa": (CLIPA, ["CLIPA", "32,000 tokens"]),
    "clipa without tokens": (
        {name: shape for name, shape in CLIPA.items() if "token_embedding" not in name},
        ["CLIPA", "an unknown number of tokens"],
    ),
    "long-clip-l": (LONG_L, ["Long-CLIP"]),
    "long-clip-h": (LONG_H, ["Long-CLIP", "248 positions"]),
    "t5": (shapes.t5(), ["T5"]),
    "bert": (BERT, ["BERT"]),
    "llm": ({"model.embed_tokens.weight": (128256, 4096)}, ["language model"]),
    "sd3": (SD3, ["Stable Diffusion 3"]),
    "sd3-full": (SD3_FULL, ["Stable Diffusion 3"]),
    "flux": (FLUX, ["Flux"]),
    "unet-only": (UNET, ["without a text encoder", "UNet of Stable Diffusion 2.x"]),
    "unet-and-vae": (UNET | shapes.prefixed("first_stage_model.", VAE), ["UNet and VAE"]),
    "sdxl-unet": (shapes.prefixed("model.diffusion_model.", shapes.sdxl_unet()), ["UNet of SDXL"]),
    "vae-only": (VAE, ["a VAE alone"]),
    "lora": (shapes.kohya_lora(), ["LoRA"]),
    "lora-oft": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.oft_blocks": (4, 8, 8)}, ["LoRA"]),
    "lora-glora": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.a1.weight": (8, 4)}, ["LoRA"]),
    "lora-differences": ({"lora_te_text_model_encoder_layers_0_mlp_fc1.diff": (8, 8)}, ["LoRA"]),
    "lora-peft": ({"text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": (4, 1024)},
                  ["LoRA"]),
    "controlnet": ({"control_model.zero_convs.0.0.weight": (320, 320, 1, 1)}, ["ControlNet"]),
    "ip-adapter": ({"image_proj.proj.weight": (4096, 1024)}, ["IP-Adapter"]),
    "embedding-kohya": ({"emb_params": (4, 1024)}, ["textual inversion", "embedding:"]),
    "embedding-diffusers": ({"<style>": (1024,)}, ["textual inversion"]),
    "embedding-a1111": ({"string_to_param.*": (3, 1024)}, ["textual inversion"]),
    "unknown": ({"layer.weight": (7, 7), "layer.bias": (7,)}, ["first keys: 'layer.weight'"]),
    "nothing": ({}, ["none at all"]),
    "headless": ({name: shape for name, shape in openclip_text(SD2_CONFIG).items()
                  if "resblocks" not in name}, ["such a copy"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_models_are_named_with_the_reason(name):
    tensors, pieces = REFUSED[name]
    with pytest.raises(NotSD2Error) as caught:
        detect(header_only(tensors))
    message = str(caught.value)
    assert message.startswith("file.safetensors: no SD2 text encoder found.")
    assert "Choose a file with the OpenCLIP ViT-H/14 text encoder" in message
    assert all(piece in message for piece in pieces), message
    assert len(message) < 1200


def test_saved_conditioning_is_named():
    metadata = {"sd2_clip": '{"format": "sd2_clip.conditioning/1"}'}
    with pytest.raises(NotSD2Error, match=r"saved conditioning\. Use Load SD2 Conditioning"):
        detect(header_only({"0.cond": (1, 77, 1024)}, metadata))
    with pytest.raises(NotSD2Error, match=r"ComfyUI's Load Conditioning"):
        detect(header_only({"conditioning": (1, 77, 1024)}))
