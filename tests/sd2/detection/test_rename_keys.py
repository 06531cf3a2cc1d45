"""Every layout, written by an independent generator, comes out as the same canonical encoder."""

from dataclasses import replace

import pytest
import torch
from layouts import (
    CASES,
    TINY_CONFIG,
    Case,
    canonical_encoder,
    case_writer,
    diffusers,
    expected_encoder,
)
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.detection.placeholder_weights import without_dead_parts
from sd2_clip.sd2.detection.rename_keys import complete, convert
from sd2_clip.sd2.detection.state_dict_keys import TOKEN_EMBEDDING
from sd2_clip.sd2.files.checkpoint import open_checkpoint

CONFIG = load_config(TINY_CONFIG)
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.name}")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return case_writer(tmp_path_factory.mktemp("layouts"))


def read_complete(path):
    """The complete encoder of a file, and what it lacked."""
    checkpoint = open_checkpoint(path)
    detection = without_dead_parts(checkpoint, detect(checkpoint, CONFIG))
    read = checkpoint.read(set(detection.names.values()))
    return complete(convert(read, detection), CONFIG)


@EVERY_CASE
def test_real_tensors_come_out_bit_equal(case: Case, written):
    state_dict, _ = read_complete(written(case))
    for name, tensor in expected_encoder(case).items():
        assert state_dict[name].dtype == case.dtype, name
        assert torch.equal(state_dict[name], tensor), name


@EVERY_CASE
def test_result_is_a_complete_encoder(case: Case, written):
    state_dict, _ = read_complete(written(case))
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    assert shapes == {name: tensor.shape for name, tensor in canonical_encoder().items()}


def test_parts_that_were_not_real_are_reported_as_added(written):
    kohya = next(case for case in CASES if case.name == "kohya")
    _, added = read_complete(written(kohya))
    assert added == ("text_model.encoder.layers.3", "text_projection.weight")


def test_query_key_and_value_are_views_of_the_stacked_tensor(written):
    case = CASES[0]
    detection = detect(written(case), CONFIG)
    source = {
        name: torch.zeros(3 * 32, 32) if name.endswith("in_proj_weight") else torch.zeros(96)
        for name in detection.names.values()
    }
    source[detection.names["text_projection.weight"]] = torch.zeros(32, 32)
    source[detection.names["logit_scale"]] = torch.zeros(())
    converted = convert(source, detection)
    stacked = source[f"{case.prefix}transformer.resblocks.0.attn.in_proj_weight"]
    pointers = [
        converted[f"text_model.encoder.layers.0.self_attn.{part}_proj.weight"].data_ptr()
        for part in "qkv"
    ]
    assert pointers == [stacked.data_ptr() + third * 32 * 32 * 4 for third in range(3)]


@EVERY_CASE
def test_tokens_added_by_training_are_cut_off_by_a_view(case: Case, written):
    checkpoint = open_checkpoint(written(case))
    table = detect(checkpoint, CONFIG).names[TOKEN_EMBEDDING]
    source = checkpoint.read(checkpoint.tensors)
    plain = source[table]
    source[table] = torch.cat([plain, torch.ones(2, 32, dtype=plain.dtype)])
    infos = {**checkpoint.tensors, table: replace(checkpoint.tensors[table], shape=(49410, 32))}
    detection = detect(replace(checkpoint, tensors=infos), CONFIG)
    converted = convert(source, detection)[TOKEN_EMBEDDING]
    assert torch.equal(converted, plain)
    assert converted.data_ptr() == source[table].data_ptr()


def test_convert_changes_nothing_it_is_given(written):
    case = CASES[0]
    path = written(case)
    checkpoint = open_checkpoint(path)
    detection = detect(checkpoint, CONFIG)
    source = checkpoint.read(checkpoint.tensors)
    before = {name: tensor.clone() for name, tensor in source.items()}
    convert(source, detection)
    assert source.keys() == before.keys()
    assert all(torch.equal(source[name], before[name]) for name in before)


def test_added_layer_changes_nothing_about_the_hidden_state():
    state_dict, _ = complete(diffusers(canonical_encoder()), CONFIG)
    layer = "text_model.encoder.layers.3."
    outputs = [state_dict[f"{layer}{part}"] for part in (
        "self_attn.out_proj.weight", "self_attn.out_proj.bias", "mlp.fc2.weight", "mlp.fc2.bias",
    )]  # fmt: skip
    assert not any(tensor.any() for tensor in outputs)


def test_added_projection_is_the_identity():
    state_dict, added = complete(diffusers(canonical_encoder()), CONFIG)
    assert "text_projection.weight" in added
    assert torch.equal(state_dict["text_projection.weight"], torch.eye(32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_added_parts_have_the_type_of_the_file(dtype):
    state_dict, added = complete(diffusers(canonical_encoder(dtype=dtype)), CONFIG)
    assert {state_dict[name].dtype for name in state_dict} == {dtype}
    assert added


def test_a_complete_encoder_stays_as_it_is():
    encoder = canonical_encoder()
    completed, added = complete(encoder, CONFIG)
    assert added == ()
    assert all(completed[name] is encoder[name] for name in encoder)
