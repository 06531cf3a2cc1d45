"""Prompts as tensors of one length, for diffusers' pipelines."""

import pytest
import sd2_clip
import tiny
import torch
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.clip.prompt_embeds import prompt_embeds
from sd2_clip.sd2.errors import OptionError

LONG = "x " * 80  # two chunks


def test_a_prompt_is_the_handles_own_encoding(clip):
    embeds = clip.prompt_embeds("a (cat:1.2)")
    assert torch.equal(embeds, clip.encode("a (cat:1.2)"))


def test_prompts_are_stacked_in_order(clip):
    embeds = clip.prompt_embeds(["a cat", "a dog", "a cat"])
    assert embeds.shape == (3, 77, 32)
    assert torch.equal(embeds, torch.cat([clip.encode(t) for t in ("a cat", "a dog", "a cat")]))


def test_prompts_and_negatives_get_one_length(clip):
    embeds, negatives = clip.prompt_embeds(["a cat", LONG], ["blurry", ""])
    assert embeds.shape == negatives.shape == (2, 154, 32)
    empty = clip.encode("")[0]
    assert torch.equal(embeds[0], torch.cat([clip.encode("a cat")[0], empty]))
    assert torch.equal(embeds[1], clip.encode(LONG)[0])
    assert torch.equal(negatives[0], torch.cat([clip.encode("blurry")[0], empty]))
    assert torch.equal(negatives[1], torch.cat([empty, empty]))


def test_a_long_negative_lengthens_the_prompts(clip):
    embeds, negatives = clip.prompt_embeds("a cat", LONG)
    assert embeds.shape == negatives.shape == (1, 154, 32)


def test_one_negative_counts_for_all(clip):
    embeds, negatives = clip.prompt_embeds(["a cat", "a dog"], "blurry")
    assert embeds.shape == negatives.shape
    assert torch.equal(negatives[0], negatives[1])


def test_dtype_and_device_are_those_asked_for(clip):
    embeds, negatives = clip.prompt_embeds("x", "", device="meta", dtype=torch.float16)
    assert {one.dtype for one in (embeds, negatives)} == {torch.float16}
    assert {one.device.type for one in (embeds, negatives)} == {"meta"}


def test_options_are_those_of_the_node(clip):
    options = {"weight_interpretation": "A1111", "stop_at_clip_layer": -1}
    embeds = clip.prompt_embeds("a (cat:1.5)", **options)
    assert torch.equal(embeds, clip.encode("a (cat:1.5)", **options))
    assert not torch.equal(embeds, clip.encode("a (cat:1.5)"))
    with pytest.raises(OptionError, match="syntax 'auto' is unknown"):
        clip.prompt_embeds("x", syntax="auto")


def test_without_padding_texts_of_equal_length_are_stacked(clip):
    assert clip.prompt_embeds("", padding="none").shape == (1, 2, 32)
    assert clip.prompt_embeds(["a cat", "a dog"], padding="none").shape == (2, 4, 32)
    with pytest.raises(OptionError, match="texts of 2, 1 tokens to one length"):
        clip.prompt_embeds("a cat", "dog", padding="none")


@pytest.mark.parametrize(
    ("prompts", "negatives", "message"),
    [
        ([], None, "prompts is an empty list"),
        (["a"], [], "negatives is an empty list"),
        (["a", "b", "c"], ["d", "e"], "3 prompts and 2 negatives"),
        ([None], None, "The text is a NoneType"),
    ],
)
def test_what_makes_no_tensor_is_refused(prompts, negatives, message, clip):
    with pytest.raises(OptionError, match=message):
        clip.prompt_embeds(prompts, negatives)


@pytest.mark.parametrize("text", ["[cat:dog:0.5]", "a cat AND a dog"])
def test_a_schedule_is_refused_with_its_count(text, clip):
    for encode in (clip.prompt_embeds, clip.encode):
        with pytest.raises(OptionError, match="makes 2 prompts"):
            encode(text, syntax="a1111")


def test_all_layers_are_no_prompt_embeds(standalone):
    clip = load_clip(
        tiny.GOLDEN / "tiny_text_encoder.safetensors",
        layer="all",
        model_options=tiny.MODEL_OPTIONS,
    )
    with pytest.raises(OptionError, match="returns all layers"):
        clip.prompt_embeds("x")


def test_the_function_takes_any_handle(clip):
    class Foreign:
        """As another loader's: no method of ours."""

        cond_stage_model, tokenizer, layer_idx = clip.cond_stage_model, clip.tokenizer, None
        encode_from_tokens_scheduled = clip.encode_from_tokens_scheduled

    assert sd2_clip.prompt_embeds is prompt_embeds
    assert torch.equal(prompt_embeds(Foreign(), "a cat"), clip.prompt_embeds("a cat"))
