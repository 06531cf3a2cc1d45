"""A safetensors header is read without the tensors, and its damage is described."""

import contextlib
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import save_safetensors
from sd2_clip.sd2.errors import SD2ClipError, UnreadableFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from tensor_files import STATE, entry, raw_safetensors


def test_metadata_is_kept(tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    assert open_checkpoint(path).metadata == {"format": "pt"}


@pytest.mark.parametrize("missing", [1, 20, 40, 60])
def test_truncated_safetensors_says_how_much_is_missing(missing, tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    length = path.stat().st_size
    os.truncate(path, length - missing)
    with pytest.raises(
        UnreadableFileError,
        match=f"header says {length:,} bytes, the file has {length - missing:,}",
    ):
        open_checkpoint(path)


@pytest.mark.parametrize("kept", [17, 40, 200])
def test_safetensors_truncated_in_its_header_is_said_to_be_truncated(kept, tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    os.truncate(path, kept)
    with pytest.raises(UnreadableFileError, match="truncated"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b'{"x": 1}',
        b'{"x": ' + b"[" * 100_000,
        b"{\xff}",
        {"x": entry(shape=(3,))},
        {"x": entry(shape=(-2,))},
        {"x": entry(shape=(True, 2))},
        {"x": entry(shape=(2.0,))},
        {"x": entry(offsets=(8, 0))},
        {"x": entry(offsets=(0,))},
        {"x": entry(dtype=7)},
        {"x": {"dtype": "F32"}},
        {"__metadata__": [1]},
    ],
    ids=["json", "number", "deep", "bytes", "size", "negative", "boolean", "float", "backwards",
         "one-offset", "type", "incomplete", "metadata"],
)  # fmt: skip
def test_header_that_makes_no_sense_is_damaged(header, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_safetensors(header, b"\0" * 64))
    with pytest.raises(UnreadableFileError, match=r"x\.safetensors.*damaged"):
        open_checkpoint(path)


def test_type_younger_than_us_stops_nobody_who_does_not_want_it(tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"new": entry(dtype="F3_E1M1"), "x": entry(offsets=(8, 16))}
    path.write_bytes(raw_safetensors(header, b"\0" * 16))
    checkpoint = open_checkpoint(path)
    assert checkpoint.read(["x"])["x"].tolist() == [0, 0]
    with pytest.raises(UnreadableFileError, match="F3_E1M1"):
        checkpoint.read(["new"])


FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@FUZZ
@given(header=JSON, length=st.none() | st.integers(0, 2**63))
@pytest.mark.slow
def test_any_json_header_gives_a_checkpoint_or_one_of_our_errors(header, length, tmp_path):
    path = tmp_path / "fuzz"
    path.write_bytes(raw_safetensors(header, b"\0" * 64, length=length))
    with contextlib.suppress(SD2ClipError):
        open_checkpoint(path)


@FUZZ
@given(data=st.data())
@pytest.mark.slow
def test_mutated_headers_give_tensors_or_one_of_our_errors(data, tmp_path):
    content = bytearray(
        raw_safetensors({"x": entry(), "y": entry("I64", (2,), (8, 24))}, b"\1" * 24)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 25))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz"
    path.write_bytes(content)
    with contextlib.suppress(SD2ClipError):
        checkpoint = open_checkpoint(path)
        for tensor in checkpoint.read(checkpoint.tensors).values():
            tensor.sum()


def test_a_header_longer_than_any_models_is_refused_before_it_is_parsed(tmp_path):
    length = 9 << 20
    path = tmp_path / "long.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{" + b" " * (length - 1))
    with pytest.raises(UnreadableFileError, match="its header has 9,437,184 bytes"):
        open_checkpoint(path)


@pytest.mark.parametrize(("other", "fits"), [((0, 8), False), ((4, 12), False), ((8, 16), True)])
def test_tensors_that_share_bytes_are_refused(other, fits, tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"a": entry(), "b": entry(offsets=other), "none": entry(shape=(0,), offsets=(4, 4))}
    path.write_bytes(raw_safetensors(header, b"\0" * 16))
    if fits:
        assert sorted(open_checkpoint(path).tensors) == ["a", "b", "none"]
    else:
        with pytest.raises(UnreadableFileError, match="'b' overlaps with another tensor"):
            open_checkpoint(path)


def test_long_names_of_tensors_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_safetensors({"attn2.to_k." * 20_000: entry()}, b"\0" * 8))
    with pytest.raises(UnreadableFileError, match="name has 220,000 characters, at most 1,000"):
        open_checkpoint(path)
