"""Every layout, written by an independent generator, comes out as the same canonical encoder."""

import pytest
import torch
from layouts import CASES, TINY_CONFIG, Case, case_writer, expected_encoder
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.detection.read_encoder import encoder_tensors, read_encoder
from sd2_clip.sd2.files.checkpoint import Checkpoint, open_checkpoint

CONFIG = load_config(TINY_CONFIG)
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.name}")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return case_writer(tmp_path_factory.mktemp("layouts"))


def untouched(tensor):
    return tensor


@EVERY_CASE
def test_trained_tensors_come_out_bit_equal(case: Case, written):
    _, _, state_dict = read_encoder(written(case), untouched, CONFIG)
    expected = expected_encoder(case)
    assert state_dict.keys() - expected.keys() <= {"logit_scale"}
    for name, tensor in expected.items():
        assert state_dict[name].dtype == case.dtype, name
        assert torch.equal(state_dict[name], tensor), name


def test_each_tensor_is_placed_and_reported(written):
    reported = []
    _, _, state_dict = read_encoder(
        written(CASES[0]),
        lambda tensor: tensor.half(),
        CONFIG,
        lambda done, total: reported.append((done, total)),
    )
    assert {tensor.dtype for tensor in state_dict.values()} == {torch.float16}
    assert reported == [(done, len(state_dict)) for done in range(1, len(state_dict) + 1)]


def test_a_tensor_that_is_the_source_of_several_is_read_once(written, monkeypatch):
    checkpoint = open_checkpoint(written(CASES[0]))
    read = Checkpoint.read
    asked = []

    def recording(self, names):
        names = list(names)
        asked.append(names)
        return read(self, names)

    monkeypatch.setattr(Checkpoint, "read", recording)
    detection = detect(checkpoint, CONFIG)
    tensors = dict(encoder_tensors(checkpoint, detection))
    assert tensors.keys() == detection.sources.keys()
    assert all(len(names) == 1 for names in asked)  # one by one, so that its pages can be freed
    assert len(asked) == len({source.key for source in detection.sources.values()})
    assert len(asked) < len(tensors)
