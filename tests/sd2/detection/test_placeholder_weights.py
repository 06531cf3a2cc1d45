"""Placeholder layers are recognised by their weights, and added ones change nothing."""

import pytest
import torch
from layouts import CASES, TINY_CONFIG, Case, canonical_encoder, case_writer, diffusers
from sd2_clip.sd2.config import DEFAULT_LOGIT_SCALE, load_config
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.detection.placeholder_weights import add_placeholder_layers
from sd2_clip.sd2.detection.read_encoder import read_encoder

CONFIG = load_config(TINY_CONFIG)
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.name}")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return case_writer(tmp_path_factory.mktemp("layouts"))


def case_named(name):
    return next(case for case in CASES if case.name == name)


def read_complete(path):
    """The complete encoder of a file, and what it lacked."""
    _, _, state_dict = read_encoder(path, lambda tensor: tensor, CONFIG)
    return add_placeholder_layers(state_dict, CONFIG)


@pytest.mark.parametrize("name", ["kohya", "kohya-fp16-ckpt", "clipsave-garbage-nan",
                                  "clipsave-garbage-zero", "clipsave-completed"])  # fmt: skip
def test_a_placeholder_layer_counts_as_missing(name, written):
    found = detect(written(case_named(name)), CONFIG)
    assert (found.num_layers, found.has_projection) == (3, False)
    assert {"text_model.encoder.layers.3", "text_projection.weight"} <= set(found.missing)
    assert not [name for name in found.sources if ".layers.3." in name]
    assert any("Layer 4 is a placeholder" in warning for warning in found.warnings)


@EVERY_CASE
def test_result_is_a_complete_encoder(case: Case, written):
    state_dict, _ = read_complete(written(case))
    shapes = {name: tensor.shape for name, tensor in state_dict.items()}
    assert shapes == {name: tensor.shape for name, tensor in canonical_encoder().items()}


def test_placeholders_of_the_file_are_reported_as_added(written):
    _, added = read_complete(written(case_named("kohya")))
    assert added == ("text_model.encoder.layers.3", "text_projection.weight")


def test_a_missing_logit_scale_is_the_one_that_training_ends_with():
    state_dict, added = add_placeholder_layers(diffusers(canonical_encoder()), CONFIG)
    assert "logit_scale" in added
    assert state_dict["logit_scale"].item() == pytest.approx(DEFAULT_LOGIT_SCALE)
    assert state_dict["logit_scale"].exp().item() == pytest.approx(100, rel=1e-3)


def test_added_layer_changes_nothing_about_the_hidden_state():
    state_dict, _ = add_placeholder_layers(diffusers(canonical_encoder()), CONFIG)
    layer = "text_model.encoder.layers.3."
    outputs = [state_dict[f"{layer}{part}"] for part in (
        "self_attn.out_proj.weight", "self_attn.out_proj.bias", "mlp.fc2.weight", "mlp.fc2.bias",
    )]  # fmt: skip
    assert not any(tensor.any() for tensor in outputs)


def test_added_projection_is_the_identity():
    state_dict, added = add_placeholder_layers(diffusers(canonical_encoder()), CONFIG)
    assert "text_projection.weight" in added
    assert torch.equal(state_dict["text_projection.weight"], torch.eye(32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_added_parts_have_the_type_of_the_file(dtype):
    state_dict, added = add_placeholder_layers(diffusers(canonical_encoder(dtype=dtype)), CONFIG)
    assert {t.dtype for name, t in state_dict.items() if name != "logit_scale"} == {dtype}
    assert state_dict["logit_scale"].dtype == torch.float32  # half precision would round it
    assert added


def test_a_complete_encoder_stays_as_it_is():
    encoder = canonical_encoder()
    completed, added = add_placeholder_layers(encoder, CONFIG)
    assert added == ()
    assert all(completed[name] is encoder[name] for name in encoder)
