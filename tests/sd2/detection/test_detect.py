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
from model_shapes import SD2_CONFIG, openclip_text, transformers_text
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.errors import BrokenEncoderError, NotSD2Error, SD2ClipError
from sd2_clip.sd2.files.checkpoint import Checkpoint, TensorInfo

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
    found = detect(written(case), TINY)
    assert (found.layout, found.prefix) == (case.layout, case.prefix)
    assert (found.num_layers, found.has_projection) == (3 if case.short else 4, case.projection)
    assert found.dtype == DTYPE_NAMES[case.dtype]
    said = " ".join(found.warnings)
    assert all(piece in said for piece in case.extras), said
    assert bool(said) == bool(case.extras), said


@EVERY_CASE
def test_detection_can_be_told_in_words_and_as_json(case: Case, written):
    found = detect(written(case), TINY)
    assert json.loads(json.dumps(found.as_json()))["layout"] == case.layout
    assert case.layout in found.describe()


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
    assert found.warnings == ()


def test_missing_parts_that_conditioning_does_not_need_are_listed():
    assert detect(header_only(DIFFUSERS)).missing == (
        "text_model.encoder.layers.23",
        "text_projection.weight",
        "logit_scale",
    )


def test_surplus_tensors_are_listed_and_not_read():
    found = detect(header_only(openclip_text(SD2_CONFIG) | {"attn_mask": (77, 77)}))
    assert found.surplus == ("attn_mask",)
    assert "attn_mask" not in {source.key for source in found.sources.values()}


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
    (sentence,) = detect(header_only(tensors | {table: (49408 + added, 1024)})).warnings
    assert f"{added:,} token" in sentence
    assert "not read" in sentence


@pytest.mark.parametrize("rows", [49407, 49408 + 1025])
def test_a_token_table_of_another_vocabulary_is_refused(rows):
    with pytest.raises(NotSD2Error, match=f"{rows:,} tokens instead of 49,408"):
        detect(
            header_only(DIFFUSERS | {"text_model.embeddings.token_embedding.weight": (rows, 1024)})
        )


LAYER = "text_model.encoder.layers.5."


@pytest.mark.parametrize(
    ("dtypes", "named"),
    [
        ({"text_model.final_layer_norm.bias": "F16"}, "F32"),
        ({"text_model.": "F16", "logit_scale": "F32"}, "F16"),
        ({"text_model.": "F8_E4M3", "norm": "F16", "bias": "F16", "position": "F16"}, "F8_E4M3"),
        ({"text_model.": "F8_E4M3", "token_embedding": "F16"}, "F8_E4M3 and F16"),
        ({"text_model.": "BF16", LAYER: "F32"}, "BF16 and F32"),
    ],
    ids=["one bias", "one scalar", "fp8, small ones in fp16", "fp8 and fp16", "one layer"],
)
def test_the_dtypes_that_take_up_the_file_are_named(dtypes, named):
    tensors = dict(header_only(DIFFUSERS | {"logit_scale": ()}).tensors)
    for part, dtype in dtypes.items():
        for name, info in tensors.items():
            if part in name:
                tensors[name] = TensorInfo(info.shape, dtype)
    assert detect(Checkpoint(Path("x.safetensors"), (), tensors)).dtype == named


def test_a_buffer_that_no_model_uses_is_listed_once():
    found = detect(header_only(DIFFUSERS | {"text_model.embeddings.position_ids": (1, 77)}))
    assert found.warnings == ()
    assert found.describe().count("position_ids") == 1


def test_unet_of_another_family_is_warned_of():
    tensors = shapes.prefixed("text_encoder.", DIFFUSERS)
    tensors["unet.down_blocks.0.attn2.to_k.weight"] = (320, 768)
    assert "768 wide" in detect(header_only(tensors)).warnings[0]


def test_second_encoder_is_noted_and_the_more_complete_one_taken():
    tensors = shapes.prefixed("ema.", DIFFUSERS) | shapes.prefixed(
        "model.", transformers_text(SD2_CONFIG)
    )
    found = detect(header_only(tensors))
    assert found.prefix == "model.text_model."
    assert "'ema.text_model.'" in found.warnings[0]


def test_headless_copy_is_never_taken():
    text = openclip_text(SD2_CONFIG)
    head = {name: shape for name, shape in text.items() if "resblocks" not in name}
    tensors = (
        shapes.prefixed("embedder.model.", head | shapes.openclip_vision())
        | shapes.prefixed("cond_stage_model.model.", text)
    )  # fmt: skip
    found = detect(header_only(tensors))
    assert found.prefix == "cond_stage_model.model."
    assert "copy without transformer blocks" in found.warnings[0]
    assert "vision tower at 'embedder.model.visual.', 1280 wide" in found.contents


def test_vision_tower_for_larger_pictures_is_warned_of():
    tensors = openclip_text(SD2_CONFIG) | shapes.openclip_vision(positions=730)
    assert "730 positions" in detect(header_only(tensors)).warnings[0]


PREFIX = st.text("abc_0.", max_size=12).map(lambda text: text and text + ".")


@settings(deadline=None, max_examples=30)
@given(prefix=PREFIX)
@pytest.mark.slow
def test_any_prefix_will_do(prefix):
    assert detect(header_only(shapes.prefixed(prefix, DIFFUSERS))).num_layers == 23
    openclip = shapes.prefixed(prefix, openclip_text(SD2_CONFIG))
    assert detect(header_only(openclip)).num_layers == 24


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
@pytest.mark.slow
def test_any_table_of_tensors_is_detected_or_refused(tensors):
    with contextlib.suppress(SD2ClipError):
        detect(header_only(tensors), TINY).describe()


@settings(deadline=None, max_examples=100)
@given(st.data())
@pytest.mark.slow
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
