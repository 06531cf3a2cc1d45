"""Saved conditioning is recognised by its metadata alone."""

import json

import pytest
from sd2_clip.sd2.files.file_kinds import conditioning_record


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
