"""The fixed prompts of other programs, and the files in which those programs expect them.

``source`` is where the program's code shows keys, padding and texts, at a commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FixedPrompt:
    """One tensor of a file: its key, the text, and ``EncodeOptions.padding``."""

    key: str
    text: str
    padding: str


@dataclass(frozen=True)
class Preset:
    """What one program wants."""

    title: str
    prompts: tuple[FixedPrompt, ...]
    dtype: str
    source: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """For a safetensors file; ``{dtype}`` stands for the name of the dtype that is stored."""
    is_bare: bool = False
    """Whether the program loads a ``.pt`` file as the tensor itself, not as a dict of tensors."""


def _empty(key: str) -> tuple[FixedPrompt, ...]:
    return (FixedPrompt(key, "", "none"),)


def _pair(positive: str, negative: str) -> tuple[FixedPrompt, ...]:
    """The two arguments of a diffusers pipeline."""
    return (
        FixedPrompt("prompt_embeds", positive, "chunk"),
        FixedPrompt("negative_prompt_embeds", negative, "chunk"),
    )


PRESETS: Mapping[str, Preset] = {
    "marigold": Preset(
        "Marigold depth, normals and intrinsics; kijai's ComfyUI-Marigold",
        _empty("empty_text_embed"),
        "fp32",
        "https://github.com/kijai/ComfyUI-Marigold/blob/2adfec75c430b0751a98a82453dc2dd8077bca85/nodes.py#L44",
        is_bare=True,
    ),
    "ccsr": Preset(
        "kijai's ComfyUI-CCSR",
        _empty("empty_text_embed"),
        "fp32",
        "https://github.com/kijai/ComfyUI-CCSR/blob/5fb3cecf3a685e1b1274a4fb6b4dedce8343c74c/nodes.py#L77-L78",
    ),
    "e2e-ft": Preset(
        "Diffusion-E2E-FT depth and normals",
        _empty("empty_text_embed"),
        "fp32",
        "https://github.com/VisualComputingInstitute/diffusion-e2e-ft/blob/4ff5aad00f686e08d49e5ee55054e161dd0a7458/Marigold/marigold/marigold_pipeline.py#L356-L369",
    ),
    "stablenormal": Preset(
        "StableNormal",
        (
            *_empty("empty_text_embedding"),
            FixedPrompt("prompt_embeds", "The normal map", "chunk"),
        ),
        "fp32",
        "https://github.com/Stable-X/StableNormal/blob/594b934630ab3bc71f35c77d14ec7feb98480cd0/stablenormal/pipeline_stablenormal.py#L552-L580",
    ),
    "pager": Preset(
        "ComfyUI-marigold-intrinsics-PaGeR, before it took zeros instead",
        (FixedPrompt("empty_prompt_embedding", "", "chunk"),),
        "fp16",
        "https://github.com/Apache0ne/Comfyui-marigold-intrinsics-PaGeR/blob/71bd7ddf285af925586396395fb9c46a37602869/nodes_conditioning.py",
        metadata={"conditioning_mode": "pager_max_length", "save_dtype": "{dtype}"},
    ),
    "lotus": Preset(
        "Lotus depth and normals",
        _empty("prompt_embeds"),
        "fp16",
        "https://github.com/EnVision-Research/Lotus/blob/b737e12238d2a41fc582ee8c6c6b1104d318d799/pipeline.py#L272",
    ),
    "chord": Preset(
        "Ubisoft's CHORD materials",
        (
            FixedPrompt("basecolor", "Basecolor", "chunk"),
            FixedPrompt("normal", "Normal", "chunk"),
            FixedPrompt("roughness", "Roughness", "chunk"),
            FixedPrompt("metallic", "Metallic", "chunk"),
            FixedPrompt("irradiance", "Irradiance", "chunk"),
            FixedPrompt("rou_met", "Roughness and Metallic", "chunk"),
        ),
        "fp16",
        "https://github.com/ubisoft/ComfyUI-Chord/blob/270ac93967f67591a8501a1baa9d452915c082c6/config/chord.yaml#L13-L19",
    ),
    "diffbir": Preset(
        "DiffBIR v2 without a captioner",
        _pair("", "low quality, blurry, low-resolution, noisy, unsharp, weird textures"),
        "fp32",
        "https://github.com/XPixelGroup/DiffBIR/blob/3f8b5304245ba0ffd6f1995e51c27c3c72d7618f/README.md#L157-L158",
    ),
    "invsr": Preset(
        "InvSR, for the encoder of SD-Turbo",
        _pair(
            "Cinematic, high-contrast, photo-realistic, 8k, ultra HD, meticulous detailing, "
            "hyper sharpness, perfect without deformations",
            # As it stands there: no blank after "noisy,".
            "Low quality, blurring, jpeg artifacts, deformed, over-smooth, cartoon, noisy,"
            "painting, drawing, sketch, oil painting",
        ),
        "fp16",
        "https://github.com/zsyOAOA/InvSR/blob/609788cd076f1990e38d3912092ca67286e1e0bc/sampler_invsr.py#L26-L29",
    ),
    "seesr": Preset(
        "SeeSR, for pictures without tags",
        _pair("clean, high-resolution, 8k", "dotted, noise, blur, lowres, smooth"),
        "fp16",
        "https://github.com/cswry/SeeSR/blob/8edecc71c4f3efa01cd26078f2e8dffd1ce80a6a/test_seesr.py#L246-L247",
    ),
}
