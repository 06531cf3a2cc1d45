"""Every layout is recognised by names and shapes, and everything else is named for what it is.

Whole models are given as shapes alone ("header only"), generated from their architectures.
"""

import contextlib
import json
from pathlib import Path

import model_shapes as shapes
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import CASES, DTYPE_NAMES, TINY_CONFIG, Case, case_writer
from model_shapes import BIG_G, CLIP_L, SD2_CONFIG, openclip_text, transformers_text
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.clip_towers import find_towers
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.detection.placeholder_weights import without_dead_parts
from sd2_clip.sd2.errors import BrokenEncoderError, NotSD2Error, SD2ClipError
from sd2_clip.sd2.files.checkpoint import Checkpoint, TensorInfo, open_checkpoint

TINY = load_config(TINY_CONFIG)
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.name}")
SHORT_SD2 = {**SD2_CONFIG, "num_hidden_layers": 23}
DIFFUSERS = transformers_text(SHORT_SD2)


def header_only(tensors, dtype="F32"):
    """A checkpoint of which there are only names and shapes."""
    infos = {name: TensorInfo(shape, dtype) for name, shape in tensors.items()}
    return Checkpoint(Path("file.safetensors"), (), infos)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return case_writer(tmp_path_factory.mktemp("layouts"))


# The matrix


@EVERY_CASE
def test_layout_is_recognised(case: Case, written):
    checkpoint = open_checkpoint(written(case))
    found = without_dead_parts(checkpoint, detect(checkpoint, TINY))
    assert (found.layout, found.prefix) == (case.layout, case.prefix)
    assert (found.num_layers, found.has_projection) == (3 if case.short else 4, case.projection)
    assert found.dtype == DTYPE_NAMES[case.dtype]
    said = " ".join(found.suspicious)
    assert all(piece in said for piece in case.extras), said
    assert bool(said) == bool(case.extras), said


@EVERY_CASE
def test_detection_can_be_told_in_words_and_as_json(case: Case, written):
    found = detect(written(case), TINY)
    assert json.loads(json.dumps(found.as_json()))["layout"] == case.layout
    assert case.layout in found.describe()


def test_numbers_are_looked_at_only_when_asked(written):
    kohya = next(case for case in CASES if case.name == "kohya")
    checkpoint = open_checkpoint(written(kohya))
    found = detect(checkpoint, TINY)
    assert (found.num_layers, found.suspicious) == (4, ())
    assert len(without_dead_parts(checkpoint, found).suspicious) == 2


# Whole models, by their shapes


@pytest.mark.parametrize(
    ("tensors", "layout", "contents"),
    [
        (shapes.sd21(), "ldm checkpoint", ["UNet for conditioning 1024 wide", "VAE"]),
        (shapes.sd21(inputs=9), "ldm checkpoint",
         ["UNet for conditioning 1024 wide (inpainting)", "VAE"]),
        (openclip_text(SD2_CONFIG) | shapes.openclip_vision(), "OpenCLIP model",
         ["vision tower at 'visual.', 1280 wide"]),
        (transformers_text(SD2_CONFIG, projection=True) | shapes.transformers_vision(),
         "transformers CLIP model", ["vision tower at 'vision_model.', 1280 wide"]),
        (DIFFUSERS, "diffusers text encoder", []),
    ],
    ids=["sd21", "inpainting", "openclip", "transformers", "diffusers"],
)  # fmt: skip
def test_full_size_models_are_recognised(tensors, layout, contents):
    found = detect(header_only(tensors))
    assert (found.layout, list(found.contents)) == (layout, contents)
    assert found.suspicious == ()


def test_missing_parts_that_conditioning_does_not_need_are_listed():
    assert detect(header_only(DIFFUSERS)).missing == (
        "text_model.encoder.layers.23",
        "text_projection.weight",
        "logit_scale",
    )


def test_surplus_tensors_are_listed_and_not_read():
    found = detect(header_only(openclip_text(SD2_CONFIG) | {"attn_mask": (77, 77)}))
    assert found.surplus == ("attn_mask",)
    assert "attn_mask" not in found.names.values()


@pytest.mark.parametrize("added", [1, 1024])
@pytest.mark.parametrize(
    ("tensors", "table"),
    [
        (DIFFUSERS, "text_model.embeddings.token_embedding.weight"),
        (openclip_text(SD2_CONFIG), "token_embedding.weight"),
    ],
    ids=["transformers", "openclip"],
)
def test_tokens_added_by_training_are_noted(tensors, table, added):
    (sentence,) = detect(header_only(tensors | {table: (49408 + added, 1024)})).suspicious
    assert f"{added:,} token" in sentence
    assert "not read" in sentence


@pytest.mark.parametrize("rows", [49407, 49408 + 1025])
def test_a_token_table_of_another_vocabulary_is_refused(rows):
    with pytest.raises(NotSD2Error, match=f"{rows:,} tokens instead of 49,408"):
        detect(
            header_only(DIFFUSERS | {"text_model.embeddings.token_embedding.weight": (rows, 1024)})
        )


def test_mixed_types_are_said_to_be_mixed():
    checkpoint = header_only(DIFFUSERS)
    tensors = dict(checkpoint.tensors)
    tensors["text_model.final_layer_norm.bias"] = TensorInfo((1024,), "F16")
    assert detect(Checkpoint(checkpoint.path, (), tensors)).dtype == "mixed"


def test_unet_of_another_family_is_suspicious():
    tensors = shapes.prefixed("text_encoder.", DIFFUSERS)
    tensors["unet.down_blocks.0.attn2.to_k.weight"] = (320, 768)
    assert "768 wide" in detect(header_only(tensors)).suspicious[0]


def test_second_encoder_is_noted_and_the_more_complete_one_taken():
    tensors = shapes.prefixed("ema.", DIFFUSERS) | shapes.prefixed(
        "model.", transformers_text(SD2_CONFIG)
    )
    found = detect(header_only(tensors))
    assert found.prefix == "model.text_model."
    assert "'ema.text_model.'" in found.suspicious[0]


def test_headless_copy_is_never_taken():
    text = openclip_text(SD2_CONFIG)
    head = {name: shape for name, shape in text.items() if "resblocks" not in name}
    tensors = (
        shapes.prefixed("embedder.model.", head | shapes.openclip_vision())
        | shapes.prefixed("cond_stage_model.model.", text)
    )  # fmt: skip
    found = detect(header_only(tensors))
    assert found.prefix == "cond_stage_model.model."
    assert "headless" in found.suspicious[0]
    assert "vision tower at 'embedder.model.visual.', 1280 wide" in found.contents


def test_vision_tower_for_larger_pictures_is_suspicious():
    tensors = openclip_text(SD2_CONFIG) | shapes.openclip_vision(positions=730)
    assert "730 positions" in detect(header_only(tensors)).suspicious[0]


PREFIX = st.text("abc_0.", max_size=12).map(lambda text: text and text + ".")


@settings(deadline=None, max_examples=30)
@given(prefix=PREFIX)
def test_any_prefix_will_do(prefix):
    assert detect(header_only(shapes.prefixed(prefix, DIFFUSERS))).num_layers == 23
    openclip = shapes.prefixed(prefix, openclip_text(SD2_CONFIG))
    assert detect(header_only(openclip)).num_layers == 24


# What is not SD2's

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
    "convnext-xxl": (CONVNEXT, ["no plain vision transformer"]),
    "rn50x64": (RN50X64, ["RN50x64"]),
    "clipa": (CLIPA, ["CLIPA", "32,000 tokens"]),
    "long-clip-l": (LONG_L, ["Long-CLIP"]),
    "long-clip-h": (LONG_H, ["Long-CLIP", "248 positions"]),
    "t5": (shapes.t5(), ["T5"]),
    "bert": (BERT, ["BERT"]),
    "llm": ({"model.embed_tokens.weight": (128256, 4096)}, ["language model"]),
    "sd3": (SD3, ["Stable Diffusion 3"]),
    "sd3-full": (SD3_FULL, ["Stable Diffusion 3"]),
    "flux": (FLUX, ["Flux"]),
    "unet-only": (UNET, ["without a text encoder", "Stable Diffusion 2.x's UNet"]),
    "unet-and-vae": (UNET | shapes.prefixed("first_stage_model.", VAE), ["UNet and VAE"]),
    "sdxl-unet": (shapes.prefixed("model.diffusion_model.", shapes.sdxl_unet()), ["SDXL's UNet"]),
    "vae-only": (VAE, ["a VAE alone"]),
    "lora": (shapes.kohya_lora(), ["LoRA"]),
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
                  if "resblocks" not in name}, ["headless"]),
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


def test_blocks_of_modules_with_longer_names_are_no_tower():
    tensors = {"my_transformer.resblocks.0.ln_1.weight": TensorInfo((1024,), "F32")}
    assert find_towers(tensors) == ()


def test_wrong_width_is_wrong_unless_asked_for():
    tensors = transformers_text(TINY_CONFIG)
    assert detect(header_only(tensors), TINY).layout == "transformers text encoder"
    with pytest.raises(NotSD2Error, match="32 wide"):
        detect(header_only(tensors))


# What is SD2's and broken


def without(tensors, *parts):
    return {
        name: shape for name, shape in tensors.items() if not any(part in name for part in parts)
    }


@pytest.mark.parametrize(
    ("tensors", "pieces"),
    [
        (without(DIFFUSERS, "layers.22.mlp.fc2.weight"), ["1 tensors are missing", "layers.22"]),
        (without(DIFFUSERS, "layers.7."), ["16 tensors are missing", "layers.7", "and 12 more"]),
        (without(DIFFUSERS, "layers.20.", "layers.21.", "layers.22."), ["48 tensors are missing"]),
        (without(DIFFUSERS, "token_embedding"), ["token_embedding.weight"]),
        (without(DIFFUSERS, "position_embedding"), ["position_embedding.weight"]),
        (without(DIFFUSERS, "final_layer_norm"), ["2 tensors are missing"]),
        (without(transformers_text(SD2_CONFIG), "layers.23.mlp"), ["layers.23.mlp.fc1.weight"]),
        (without(openclip_text(SD2_CONFIG), "resblocks.3.attn.in_proj_bias"), ["1 tensors"]),
        (openclip_text(SD2_CONFIG) | {"text_projection": (1024, 512)}, ["[1024, 512]"]),
        (DIFFUSERS | {"text_model.encoder.layers.0.mlp.fc1.bias": (4097,)},
         ["[4097] instead of [4096]"]),
        (DIFFUSERS | {"text_model.embeddings.token_embedding.weight": (49408, 1024, 1)},
         ["[49408, 1024, 1] instead of [49408, 1024]"]),
        (DIFFUSERS | {"text_model.scaled_fp8": (2,)}, ["scaled fp8"]),
    ],
    ids=["tensor", "layer", "last-layers", "tokens", "positions", "norm", "half-a-layer",
         "openclip", "projection", "misshapen", "token-table", "fp8"],
)  # fmt: skip
def test_broken_encoder_is_told_from_another_model(tensors, pieces):
    with pytest.raises(BrokenEncoderError) as caught:
        detect(header_only(tensors))
    message = str(caught.value)
    assert all(piece in message for piece in pieces), message
    assert len(message) < 1500


def test_quantised_weights_are_broken():
    with pytest.raises(BrokenEncoderError, match="type I8"):
        detect(header_only(DIFFUSERS, "I8"))


def test_a_broken_copy_does_not_spoil_a_whole_encoder():
    tensors = shapes.prefixed("ema.", without(DIFFUSERS, "layers.7.mlp")) | DIFFUSERS
    assert detect(header_only(tensors)).prefix == "text_model."


NAMES = sorted(transformers_text(TINY_CONFIG)) + sorted(openclip_text(TINY_CONFIG))


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(NAMES) | st.text(max_size=30),
        st.lists(st.integers(0, 3) | st.sampled_from([32, 77, 49408]), max_size=3).map(tuple),
        max_size=40,
    )
)
def test_any_table_of_tensors_is_detected_or_refused(tensors):
    with contextlib.suppress(SD2ClipError):
        detect(header_only(tensors), TINY).describe()


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_mutated_encoders_are_detected_or_refused(data):
    tensors = dict(transformers_text(TINY_CONFIG, projection=True))
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=3)):
        change = data.draw(st.sampled_from(["drop", "shape", "rename"]))
        shape = tensors.pop(name, ())
        if change == "shape":
            tensors[name] = (*shape[:1], *data.draw(st.lists(st.integers(0, 99), max_size=2)))
        elif change == "rename":
            tensors[name[:-1]] = shape
    with contextlib.suppress(NotSD2Error, BrokenEncoderError):
        detect(header_only(tensors), TINY)
