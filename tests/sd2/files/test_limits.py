"""The memory that the worst files of a small size take, measured in a process of its own."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
HOSTILE = ROOT / "tests" / "data" / "hostile"
MANY = 990_000


def write_pickle(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)


def long_text(character: str) -> bytes:
    """A pickled text of 30 MiB, stored in memory with 1 or 4 bytes for each character."""
    text = b"a" * (30 << 20) + character.encode()
    return b"\x80\x02X" + struct.pack("<I", len(text)) + text + b"."


PICKLES = {
    "lists": b"\x80\x02](" + b"]" * MANY + b"e.",
    "dicts in the memo": b"\x80\x04](" + b"}\x94" * (MANY // 2) + b"e.",
    "nested tuples": b"\x80\x02N" + b"\x85" * MANY + b".",
    "large integers": b"\x80\x02](" + b"\x8a\x02\xff\x7f" * MANY + b"e.",
    "keys without a name": b"\x80\x02}(" + b"NN" * (MANY // 2) + b"u.",
    "text": long_text("a"),
    "wide text": long_text("\U0001f600"),
    "itself": b"\x80\x02]q\x00h\x00a.",
    "itself in dicts": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
}

HEADERS = {
    "empty lists": b'{"a":[' + b"[]," * 2_700_000 + b"0]}",
    "empty dicts": b'{"a":[' + b"{}," * 2_700_000 + b"0]}",
    "tensors": json.dumps(
        {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    ).encode(),
}


def write_all(folder: Path) -> None:
    for name, pickled in PICKLES.items():
        write_pickle(folder / f"{name}.pt", pickled)
    for name, header in HEADERS.items():
        (folder / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    row = torch.ones(1, 1024)
    torch.save([row.expand(9000, 1024)] * 500, folder / "one tensor, many times.pt")
    many = {f"t{n}": row.clone().expand(9000, 1024) for n in range(500)}
    torch.save(many, folder / "repeated values.pt")
    torch.save({"emb_params": torch.zeros(40_000, 1024)}, folder / "stored.pt")
    with (
        zipfile.ZipFile(folder / "stored.pt") as stored,
        zipfile.ZipFile(folder / "compressed.pt", "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for entry in stored.infolist():
            archive.writestr(entry.filename, stored.read(entry.filename))
    (folder / "stored.pt").unlink()


# Each file is read in a fork, whose peak begins at what its parent holds at that moment.
PROGRAM = """
import os, resource, sys
from pathlib import Path
import torch
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.errors import SD2ClipError
from sd2_clip.sd2.tokens.textual_inversion_file import read_vectors

READ = [detect, lambda path: read_vectors(path, 1024, "clip_h")]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in READ:
        if os.fork() == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            idle = peak()
            try:
                read(path)
                outcome = "read"
            except SD2ClipError as error:
                outcome = str(error)
            print(path.name, peak() - idle, repr(outcome), sep="\\t", flush=True)
            os._exit(0)
        _, status = os.wait()
        if status:
            print(path.name, -1, f"ended with {status}", sep="\\t", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are measured as Linux counts them")
def test_the_worst_files_take_no_more_memory_than_promised(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    write_all(folder)
    for path in HOSTILE.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 2 * len(list(folder.iterdir())), done.stderr
    for name, peak, outcome in lines:
        limit = (256 << 20) + 4 * (folder / name).stat().st_size
        assert 0 <= int(peak) <= limit, (name, peak, outcome)
        assert len(outcome) < 1000, outcome
