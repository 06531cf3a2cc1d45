"""Fragments that are read, encoded and written at the same time."""

import threading
from itertools import count
from pathlib import Path

import pytest
import tiny
import torch
from sd2_clip.dataset import local_engine
from sd2_clip.dataset.caption_encoder import CaptionEncoder
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.encode_fragment import FragmentEncoder
from sd2_clip.dataset.formats import make_format

FRAGMENTS = 7


def written(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture
def encode(tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("\n".join(f"cat {number}" for number in range(5 * FRAGMENTS)))

    def encode(name: str) -> dict[str, bytes]:
        out = tmp_path / name
        encode_captions(
            str(captions), str(out), tiny.caption_encoder(), make_format(), fragment_size=5
        )
        return written(out)

    return encode


@pytest.fixture
def gpu(monkeypatch):
    """An encoder that says it is on a GPU; it computes on the CPU, as there may be no other."""
    monkeypatch.setattr(CaptionEncoder, "device", torch.device("cuda"))


def test_beside_a_gpu_several_fragments_are_written_at_a_time(encode, gpu, monkeypatch):
    together = threading.Barrier(local_engine.GPU_WRITERS, timeout=60)
    started = count()
    write = FragmentEncoder.write

    def write_with_others(self, *args):
        if next(started) < local_engine.GPU_WRITERS:
            together.wait()  # raises if the others do not come while this one writes
        return write(self, *args)

    monkeypatch.setattr(FragmentEncoder, "write", write_with_others)
    files = encode("together")
    assert next(started) > FRAGMENTS
    monkeypatch.setattr(FragmentEncoder, "write", write)
    monkeypatch.setattr(local_engine, "GPU_WRITERS", 1)
    assert files == encode("alone")


def test_an_error_of_a_writer_is_raised_and_ends_the_run(encode, gpu, monkeypatch):
    write = FragmentEncoder.write
    number = count(1)

    def fail_at_the_third(self, *args):
        if next(number) == 3:
            raise OSError("the disk is full")
        return write(self, *args)

    monkeypatch.setattr(FragmentEncoder, "write", fail_at_the_third)
    with pytest.raises(OSError, match="the disk is full"):
        encode("full")
