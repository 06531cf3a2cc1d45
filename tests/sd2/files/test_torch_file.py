"""PyTorch's files give what torch loads from them, and their damage is named."""

import contextlib
import io
import pickle
import zipfile
from collections import OrderedDict, defaultdict

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sd2_clip.sd2.errors import SD2ClipError, UnreadableFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from sd2_clip.sd2.files.torch_file import load_pickle, open_pickle
from tensor_files import BASE, BOTH_FORMS, saved


def same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and torch.equal(
            ours.detach(), theirs.detach()
        )
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


VALUES = {
    "dict": {"a": BASE, "b": {"c": BASE.half(), "d": [1, 2.5, "x", None, True, (1, "y")]}},
    "ordered": OrderedDict([("z", BASE), ("a", BASE + 1)]),
    "parameter": {"w": torch.nn.Parameter(BASE)},
    "a1111": {"string_to_token": {"*": 265}, "string_to_param": {"*": BASE}, "step": 100},
    "tied": {"a": BASE, "b": BASE},
    "strided": {"t": BASE.t(), "slice": BASE[1:3, ::2], "row": BASE[2]},
    "expanded": {"e": torch.ones(1).expand(5, 3)},
    "scalar-and-empty": {"s": torch.tensor(3.5), "e": torch.empty(0, 4), "i": torch.tensor([7])},
    "size": {"size": torch.Size([2, 3])},
    "large-numbers": {"n": [2**40, -(2**70), 1e300, "\N{SNOWMAN}"]},
    "state-dict-of-module": torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3)).state_dict(),
}


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64]  # fmt: skip


@BOTH_FORMS
@pytest.mark.parametrize("name", VALUES)
def test_values_are_those_torch_loads(name, zipped, tmp_path):
    path = saved(tmp_path, VALUES[name], zipped=zipped)
    assert same(load_pickle(path), torch.load(path, weights_only=True))


@BOTH_FORMS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_tensor_type_is_read(dtype, zipped, tmp_path):
    value = {"x": (torch.arange(9) % 2).to(dtype)}
    path = saved(tmp_path, value, zipped=zipped)
    assert same(load_pickle(path), value)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint16], ids=str)
def test_types_without_a_storage_of_their_own_are_read(dtype, tmp_path):
    value = {"x": torch.tensor([1, 2, 3]).to(dtype)}
    loaded = load_pickle(saved(tmp_path, value))["x"]
    assert loaded.dtype == dtype
    assert torch.equal(loaded.to(torch.float32), value["x"].to(torch.float32))


def test_bare_tensor_is_loaded(tmp_path):
    assert torch.equal(load_pickle(saved(tmp_path, BASE)), BASE)


def test_loaded_tensors_are_copies_that_leave_the_file_free(tmp_path):
    path = saved(tmp_path, {"x": BASE})
    loaded = load_pickle(path)["x"]
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert torch.equal(loaded, BASE)


def test_numbers_as_keys_cannot_be_asked_for_and_do_no_harm(tmp_path):
    assert load_pickle(saved(tmp_path, {"state": {0: {"step": 1}}, "a": 2})) == {
        "state": {},
        "a": 2,
    }


def test_known_objects_of_trainers_are_opaque_and_listed(tmp_path):
    import argparse
    import datetime
    from pathlib import PurePosixPath

    import numpy

    value = {
        "state_dict": {"w": BASE},
        "args": argparse.Namespace(lr=1),
        "best": numpy.float64(0.5),
        "counts": defaultdict(int, a=1),
        "path": PurePosixPath("x"),
        "when": datetime.timedelta(1),
    }
    path = tmp_path / "trainer.ckpt"
    torch.save(value, path)
    checkpoint = open_checkpoint(path)
    assert list(checkpoint.tensors) == ["w"]
    for name in ("argparse.Namespace", "multiarray.scalar", "pathlib.", "timedelta"):
        assert name in checkpoint.notes[0]


def test_objects_of_a_pickled_module_are_no_state_dict(tmp_path):
    path = saved(tmp_path, torch.nn.Linear(2, 2))
    with pytest.raises(UnreadableFileError, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_checkpoint(path)


def test_decompressed_pickle_is_limited(monkeypatch, tmp_path):
    from sd2_clip.sd2.files import torch_file

    monkeypatch.setattr(torch_file, "MAX_PICKLE_BYTES", 10_000)
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]0" * 10_000 + b"N.")
    with pytest.raises(UnreadableFileError, match="10,000 bytes"):
        load_pickle(path)


def test_tensor_larger_than_its_storage_is_damaged(tmp_path):
    path = saved(tmp_path, {"x": BASE})
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(name for name in entries if name.endswith("data.pkl")).removesuffix("data.pkl")
    entries[f"{root}data.pkl"] = entries[f"{root}data.pkl"].replace(b"K\x04K\x06", b"K\x05K\x06")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(UnreadableFileError, match=r"\[5, 6\] does not fit"):
        open_checkpoint(path)


def test_terabytes_made_of_one_number_are_damaged(tmp_path):
    path = saved(tmp_path, {"x": torch.ones(1).expand(10**6, 10**6)})
    with pytest.raises(UnreadableFileError, match="does not fit"):
        load_pickle(path)


def test_load_pickle_is_for_small_files(monkeypatch, tmp_path):
    from sd2_clip.sd2.files import torch_file

    monkeypatch.setattr(torch_file, "MAX_LOADED_BYTES", 50)
    with pytest.raises(UnreadableFileError, match="holds 96 bytes of tensors; the limit"):
        load_pickle(saved(tmp_path, {"x": BASE}))


@BOTH_FORMS
@pytest.mark.parametrize("kept", [0.1, 0.4, 0.6, 0.9, 0.999])
def test_truncated_file_is_said_to_be_truncated(kept, zipped, tmp_path):
    path = saved(tmp_path, {"x": torch.zeros(1000)}, zipped=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UnreadableFileError, match=r"truncated|ends .* too early"):
        load_pickle(path)


def test_big_endian_file_is_named(tmp_path):
    path = tmp_path / "big.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/byteorder", b"big")
    with pytest.raises(UnreadableFileError, match="big-endian"):
        load_pickle(path)


def test_torchscript_is_named(tmp_path):
    path = tmp_path / "scripted.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"archive/{name}", pickle.dumps({}, 2))
    with pytest.raises(UnreadableFileError, match="TorchScript"):
        open_checkpoint(path)


def test_other_zip_archive_is_named_by_what_it_begins_with(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"hello")
    with pytest.raises(UnreadableFileError, match=r"'readme\.txt'.*unpack"):
        open_checkpoint(path)


def test_missing_tensor_data_is_named(tmp_path):
    path = saved(tmp_path, {"x": BASE})
    with zipfile.ZipFile(path) as archive:
        kept = {n: archive.read(n) for n in archive.namelist() if not n.endswith("data/0")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
    with pytest.raises(UnreadableFileError, match="data/0"):
        load_pickle(path)


def serialised(zipped):
    buffer = io.BytesIO()
    value = {"state_dict": {"a": BASE, "b": BASE.half().t()}, "n": [1, {"x": "y"}]}
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


FILES = [serialised(True), serialised(False)]


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
@pytest.mark.slow
def test_mutated_files_give_a_value_or_one_of_our_errors(tmp_path, data):
    original = bytearray(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(original) - 1))
        original[position] = data.draw(st.integers(0, 255))
    path = tmp_path / "mutated.pt"
    path.write_bytes(original)
    with contextlib.suppress(SD2ClipError):
        load_pickle(path)


def test_opening_reads_no_tensor_data(tmp_path):
    path = saved(tmp_path, {"x": torch.zeros(1 << 20)})
    pickled = open_pickle(path)
    assert isinstance(pickled.root, dict)
    assert pickled.root["x"].shape == (1 << 20,)


def test_an_entry_whose_local_header_has_another_name_is_refused(tmp_path):
    path = saved(tmp_path, {"x": torch.ones(3)})
    data = path.read_bytes()
    name = next(n for n in zipfile.ZipFile(path).namelist() if n.endswith("data/0")).encode()
    first = data.index(name)  # the directory is at the end, and has the name once more
    path.write_bytes(data[:first] + name[:-1] + b"9" + data[first + len(name) :])
    with pytest.raises(UnreadableFileError, match="has another name in the zip directory"):
        load_pickle(path)
