"""Saved conditioning is recognised by its header alone."""

import json

import pytest
import torch
from safetensors.torch import save_file
from sd2_clip.sd2.files.file_kinds import (
    conditioning_record,
    is_conditioning,
    is_conditioning_file,
)


def test_saved_conditioning_is_recognised():
    record = {"format": "sd2_clip.conditioning/1", "entries": []}
    assert conditioning_record({"sd2_clip": json.dumps(record), "prompt": "{}"}) == record


@pytest.mark.parametrize(
    "metadata",
    [{}, {"format": "pt"}, {"sd2_clip": "{"}, {"sd2_clip": "[]"}, {"sd2_clip": "[" * 100_000},
     {"sd2_clip": json.dumps({"format": "sd2_clip.captions/1"})}],
    ids=["none", "weights", "broken", "list", "deep", "captions"],
)  # fmt: skip
def test_other_files_are_not_conditioning(metadata):
    assert conditioning_record(metadata) is None


COND = {"conditioning": (1, 77, 1024)}
RECORD = {"sd2_clip": json.dumps({"format": "sd2_clip.conditioning/1"})}


@pytest.mark.parametrize(
    ("shapes", "metadata"),
    [(COND, {}), ({"x": (1, 2)}, {"conditioning_options": "{}"}), ({"0.cond": (1, 2)}, RECORD)],
    ids=["tensor", "options", "ours"],
)
def test_each_mark_of_conditioning_is_enough(shapes, metadata):
    assert is_conditioning(shapes, metadata)


@pytest.mark.parametrize(
    "shapes",
    [{}, {"conditioning": (77, 1024)}, {"conditioning": (1024,)}, {"emb_params": (1, 77, 1024)}],
    ids=["empty", "an inversion of this name", "one vector", "another name"],
)
def test_a_textual_inversion_is_not_conditioning(shapes):
    assert not is_conditioning(shapes, {"format": "pt"})


def test_a_file_is_looked_at_again_when_it_changes(tmp_path):
    path = tmp_path / "x.safetensors"
    assert not is_conditioning_file(path)
    save_file({"emb_params": torch.zeros(3, 8)}, path)
    assert not is_conditioning_file(path)
    save_file({"conditioning": torch.zeros(1, 9, 8)}, path)
    assert is_conditioning_file(path)
    assert not is_conditioning_file(path, path.stat().st_size + 1)
    path.write_bytes(b"not a safetensors file")
    assert not is_conditioning_file(path)
