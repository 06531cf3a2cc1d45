"""Real diffusers: pictures from our prompt_embeds, beside those of a pipeline's own encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts
import pytest
import torch
from model_shapes import TINY_CONFIG
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.tokens.bpe import clip_vocabulary

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("default"),  # of other packages
]

OPTIONS = {"clip_h_model_config": TINY_CONFIG}
PROMPTS = ["a photograph of an astronaut riding a horse", "Zwölf Boxkämpfer, 4k; it's 'odd'"]


def tokenizer(folder: Path) -> Any:
    """SD2's tokenizer folder, with the pad token of its special_tokens_map.json."""
    from transformers import CLIPTokenizer

    vocabulary = clip_vocabulary()
    merges = "\n".join(" ".join(pair) for pair in vocabulary.merges)
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
               "unk_token": "<|endoftext|>", "pad_token": "!"}  # fmt: skip
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary.ids), encoding="utf-8")
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}),
        encoding="utf-8",
    )
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder() -> Any:
    """A tiny encoder of SD2's make, with 3 of its 4 layers, as diffusers has them."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        **{**TINY_CONFIG, "num_hidden_layers": TINY_CONFIG["num_hidden_layers"] - 1},
        hidden_act="gelu", bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    model = CLIPTextModel(config).eval()
    weights = layouts.diffusers(layouts.canonical_encoder())
    if not any(name.startswith("text_model.") for name in model.state_dict()):  # transformers 5
        weights = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    return model


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    width = TINY_CONFIG["hidden_size"]
    found = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(16, 16), norm_num_groups=8, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(tmp_path_factory.mktemp("pipe") / "tokenizer"),
        unet=diffusers.UNet2DConditionModel(
            sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=width, attention_head_dim=8,
        ),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    found.set_progress_bar_config(disable=True)
    return found


def bare(pipe: Any) -> Any:
    """The same pipeline as a folder without a text encoder gives it."""
    parts = {**pipe.components, "text_encoder": None, "tokenizer": None}
    found = type(pipe)(**parts, requires_safety_checker=False)
    found.set_progress_bar_config(disable=True)
    return found


def pictures(pipe: Any, **prompts: Any) -> torch.Tensor:
    found = pipe(
        **prompts, num_inference_steps=3, guidance_scale=7.5, output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in (1, 2)],
    )  # fmt: skip
    return torch.from_numpy(found.images)


def test_pictures_equal_those_of_the_pipelines_own_encoder(pipe: Any) -> None:
    negatives = ["blurry, low quality", ""]
    clip = load_clip(pipe.text_encoder, model_options=OPTIONS)
    embeds, negative = clip.prompt_embeds(PROMPTS, negatives)
    ours = pictures(bare(pipe), prompt_embeds=embeds, negative_prompt_embeds=negative)
    theirs = pictures(pipe, prompt=PROMPTS, negative_prompt=negatives)
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    other = pictures(pipe, prompt=["another", "text"], negative_prompt=negatives)
    assert (other - theirs).abs().max() > 1e-2  # the texts matter, so the comparison can fail


def test_the_pipelines_encoder_is_shared_not_copied(pipe: Any) -> None:
    clip = load_clip(pipe.text_encoder, model_options=OPTIONS)
    ours = {one.data_ptr() for one in clip.cond_stage_model.parameters()}
    theirs = {one.data_ptr() for one in pipe.text_encoder.parameters()}
    assert theirs <= ours
    assert clip.cond_stage_model.source.detection.num_layers == 3


def test_prompts_of_several_chunks_make_pictures(pipe: Any) -> None:
    clip = load_clip(pipe.text_encoder, model_options=OPTIONS)
    embeds, negative = clip.prompt_embeds(["a fox " * 60, "a fox"], "blurry")
    assert embeds.shape == negative.shape == (2, 154, 32)
    made = pictures(bare(pipe), prompt_embeds=embeds, negative_prompt_embeds=negative)
    assert made.isfinite().all()


def test_an_exclamation_mark_is_padding_to_the_pipeline_alone(pipe: Any) -> None:
    clip = load_clip(pipe.text_encoder, model_options=OPTIONS)

    def own(text: str) -> torch.Tensor:
        return pipe.encode_prompt(text, "cpu", 1, False)[0]

    torch.testing.assert_close(own("a fox"), clip.encode("a fox"), atol=1e-5, rtol=0)
    assert pipe.tokenizer("a fox!").input_ids[3] == 0
    assert clip.tokenize("a fox!")["h"][0][3][0] == 256
    assert (own("a fox!") - clip.encode("a fox!")).abs().max() > 1e-2


def test_empty_prompts_without_padding_are_marigolds(pipe: Any) -> None:
    clip = load_clip(pipe.text_encoder, model_options=OPTIONS)
    ids = pipe.tokenizer("", padding="do_not_pad", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = pipe.text_encoder(ids)[0]
    assert theirs.shape == (1, 2, 32)
    torch.testing.assert_close(clip.encode("", padding="none"), theirs, atol=1e-5, rtol=0)
