"""Tensors are memory-mapped one by one, privately, and values are read without torch."""

import json
import mmap
import os
import struct

import pytest
import torch
from layouts import save_pickle, save_safetensors
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from tensor_files import STATE, entry, raw_safetensors

MMAP = mmap.mmap


@pytest.mark.parametrize("padding", range(4))
def test_misaligned_tensors_are_read_right(padding, tmp_path):
    numbers = struct.pack("<2f", 1.5, -2.5)
    header = json.dumps({"x": entry()}).encode()
    header += b" " * (padding - (len(header) + 8) % 4)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(raw_safetensors(header, numbers))
    tensor = open_checkpoint(path).read(["x"])["x"]
    assert tensor.tolist() == [1.5, -2.5]
    assert tensor.data_ptr() % 4 == 0


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    before = path.read_bytes()
    open_checkpoint(path).read(["a.weight"])["a.weight"].fill_(9)
    assert path.read_bytes() == before


def test_tensors_that_share_a_storage_share_memory(tmp_path):
    tied = torch.ones(4)
    path = save_pickle({"a": tied, "b": tied, "c": tied[2:]}, tmp_path / "x.pt")
    read = open_checkpoint(path).read(["a", "b", "c"])
    assert read["a"].data_ptr() == read["b"].data_ptr() == read["c"].data_ptr() - 8


def test_only_what_is_asked_for_is_mapped(tmp_path, monkeypatch):
    mapped = []

    def recording(number, length, **options):
        mapped.append(length)
        return MMAP(number, length, **options)

    monkeypatch.setattr(mmap, "mmap", recording)
    path = save_safetensors(
        {"a": torch.zeros(10), "m": torch.zeros(32 << 20), "z": torch.ones(10)}, tmp_path / "x"
    )
    read = open_checkpoint(path).read(["a", "z"])
    assert [tensor.sum().item() for tensor in read.values()] == [0, 10]
    assert len(mapped) == 2
    assert sum(mapped) < 2 * (mmap.ALLOCATIONGRANULARITY + 80)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_values_are_read_without_torch(dtype, tmp_path):
    values = torch.tensor([[1.5, -2.0], [0.25, 1024.0]], dtype=dtype)
    for path in (
        save_safetensors({"x": values}, tmp_path / "s"),
        save_pickle({"x": values}, tmp_path / "z"),
        save_pickle({"x": values}, tmp_path / "l", "legacy"),
        save_pickle({"x": values}, tmp_path / "d", "zip-deflated"),
    ):
        checkpoint = open_checkpoint(path)
        assert checkpoint.read_values("x") == (1.5, -2.0, 0.25, 1024.0)
        assert checkpoint.read_values("x", 1, 2) == (-2.0, 0.25)
        assert checkpoint.read_values("x", 3, 9) == (1024.0,)


def test_values_of_a_strided_tensor_are_not_read(tmp_path):
    checkpoint = open_checkpoint(save_pickle({"x": torch.ones(2, 3).t()}, tmp_path / "x"))
    assert checkpoint.read_values("x") == ()


def test_file_that_shrank_after_opening_is_an_error(tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(path)
    os.truncate(path, 100)
    with pytest.raises(UnreadableFileError, match="changed"):
        checkpoint.read(STATE)
