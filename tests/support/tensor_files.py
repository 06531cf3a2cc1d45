"""Small files of tensors, whole and spoiled, for the tests of reading files."""

import json
import pickle
import struct
import zipfile

import pytest
import torch

STATE = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.half": torch.arange(5).half(),
    "a.brain": torch.arange(5).bfloat16(),
    "b.ids": torch.arange(7)[None],
    "b.scalar": torch.tensor(2.5),
    "b.empty": torch.empty(0, 3),
}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
        for name in theirs
    )


def raw_safetensors(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BOTH_FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])


BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6)


def saved(tmp_path, value, *, zipped=True):
    path = tmp_path / "file.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def with_pickle(tmp_path, pickled, *, zipped=True, name="file.pt"):
    """A PyTorch file whose pickle is replaced by *pickled*."""
    path = tmp_path / name
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/data/0", b"\0" * 64)
            archive.writestr("archive/version", b"3\n")
    else:
        torch.save({}, path, _use_new_zipfile_serialization=False)
        data = path.read_bytes()
        assert pickle.dumps({}, 2) in data
        path.write_bytes(data.replace(pickle.dumps({}, 2), pickled, 1))
    return path
