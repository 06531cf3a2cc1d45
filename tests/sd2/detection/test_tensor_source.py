"""Tensors of a file become canonical ones, as views where possible."""

from dataclasses import replace

import pytest
import torch
from layouts import CASES, TINY_CONFIG, Case, case_writer
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.detection.state_dict_keys import TOKEN_EMBEDDING
from sd2_clip.sd2.detection.tensor_source import (
    FirstRows,
    QKVThird,
    Scalar,
    TensorSource,
    Transposed,
    Unchanged,
    rename_keys,
)
from sd2_clip.sd2.files.checkpoint import open_checkpoint

CONFIG = load_config(TINY_CONFIG)
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.name}")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return case_writer(tmp_path_factory.mktemp("layouts"))


@pytest.mark.parametrize(
    ("transform", "canonical"),
    [
        (Unchanged(), (4, 2)),
        (QKVThird(1), (4, 2)),
        (QKVThird(2), (4,)),
        (Transposed(), (4, 2)),
        (Scalar(), ()),
        (FirstRows(3), (4, 2)),
    ],
    ids=str,
)
def test_every_shape_that_a_transform_takes_becomes_the_canonical_one(transform, canonical):
    for shape in transform.source_shapes(canonical):
        assert transform(torch.zeros(shape)).shape == canonical


def test_query_key_and_value_are_views_of_the_stacked_tensor():
    stacked = torch.arange(18.0).reshape(6, 3)
    sources = {part: TensorSource("in_proj", QKVThird(i)) for i, part in enumerate("qkv")}
    renamed = rename_keys({"in_proj": stacked}, sources)
    assert [tensor.data_ptr() - stacked.data_ptr() for tensor in renamed.values()] == [0, 24, 48]
    assert torch.equal(torch.cat(list(renamed.values())), stacked)


def test_a_parameter_used_as_x_at_w_becomes_a_weight_used_as_x_at_w_transposed():
    parameter, x = torch.arange(6.0).reshape(2, 3), torch.tensor([[1.0, -2.0]])
    weight = Transposed()(parameter)
    assert torch.equal(torch.nn.functional.linear(x, weight), x @ parameter)


@EVERY_CASE
def test_tokens_added_by_training_are_cut_off_by_a_view(case: Case, written):
    checkpoint = open_checkpoint(written(case))
    table = detect(checkpoint, CONFIG).sources[TOKEN_EMBEDDING].key
    source = checkpoint.read(checkpoint.tensors)
    plain = source[table]
    source[table] = torch.cat([plain, torch.ones(2, 32, dtype=plain.dtype)])
    infos = {**checkpoint.tensors, table: replace(checkpoint.tensors[table], shape=(49410, 32))}
    detection = detect(replace(checkpoint, tensors=infos), CONFIG)
    converted = rename_keys(source, detection.sources)[TOKEN_EMBEDDING]
    assert torch.equal(converted, plain)
    assert converted.data_ptr() == source[table].data_ptr()


def test_nothing_is_renamed_or_changed_in_place(written):
    checkpoint = open_checkpoint(written(CASES[0]))
    source = checkpoint.read(checkpoint.tensors)
    before = {name: tensor.clone() for name, tensor in source.items()}
    renamed = rename_keys(source, detect(checkpoint, CONFIG).sources)
    assert renamed.keys() != source.keys() == before.keys()
    assert all(torch.equal(source[name], before[name]) for name in before)
