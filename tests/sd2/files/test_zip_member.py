"""Members of zip files are read as both their headers say, or refused."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from hostile_costs import directory_entries
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from sd2_clip.sd2.files.torch_file import load_pickle
from sd2_clip.sd2.files.zip_member import DamagedZipError, ZipMember, zip_members

VALUE = {"x": torch.arange(5000.0), "y": torch.ones(3), "empty": torch.empty(0)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "file.pt"
    torch.save(VALUE, path)
    return path


def repacked(path: Path, compression: int = zipfile.ZIP_STORED, *, streamed: bool = False) -> Path:
    """The same members, written by Python, without or with descriptors after the data."""

    class Stream(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            return buffer.write(data)  # type: ignore[arg-type]

    buffer = io.BytesIO()
    target = Stream() if streamed else buffer
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:  # type: ignore[arg-type]
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    path.write_bytes(buffer.getvalue())
    return path


def check_same(path: Path) -> None:
    found = load_pickle(path)
    assert found.keys() == VALUE.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in VALUE.items())
    checkpoint = open_checkpoint(path)
    checkpoint.check_crcs(checkpoint.tensors)


def test_what_torch_saves_is_read(saved: Path) -> None:
    check_same(saved)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_other_programs_pack_is_read(saved: Path, compression: int, streamed: bool) -> None:
    check_same(repacked(saved, compression, streamed=streamed))


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    if not hasattr(torch.serialization, "set_crc32_options"):
        pytest.skip("this torch always writes checksums")
    path = tmp_path / "file.pt"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(VALUE, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check_same(path)


@pytest.mark.skipif(shutil.which("zip") is None, reason="there is no zip program")
@pytest.mark.parametrize("options", [["-0"], [], ["-fz"], ["-"]], ids=str)
def test_what_info_zip_packs_is_read(saved: Path, tmp_path: Path, options: list[str]) -> None:
    folder = tmp_path / "unpacked"
    with zipfile.ZipFile(saved) as archive:
        archive.extractall(folder)
    packed = tmp_path / "packed.zip"
    target = [] if options == ["-"] else [str(packed)]
    done = subprocess.run(
        ["zip", "-q", "-r", *options, *target, "file"], cwd=folder, capture_output=True, check=True
    )
    if not target:
        packed.write_bytes(done.stdout)
    check_same(packed)


def header_of(data: bytes, name: str) -> tuple[int, int]:
    """Where the member's own header and its record in the directory begin."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entry = archive.getinfo(name)
        start = archive.start_dir
    record = data.index(name.encode(), start) - 46
    while data[record : record + 4] != b"PK\1\2":
        record = data.index(name.encode(), record + 47) - 46
    return entry.header_offset, record


def set_bytes(data: bytearray, at: int, code: str, value: int) -> None:
    struct.pack_into(code, data, at, value)


# What is changed, in the member's own header or in the directory; whether torch's form, which has
# sizes after the data only, or Python's, which has them before it.
DISAGREE: dict[str, tuple[str, int, str, int, bool]] = {
    "compression": ("local", 8, "<H", 8, True),
    "encryption here": ("local", 6, "<H", 2057, True),
    "encryption in the directory": ("directory", 8, "<H", 2057, True),
    "encryption in both": ("both", 6, "<H", 2057, True),
    "strong encryption": ("local", 6, "<H", 2056 | 64, True),
    "patch": ("local", 6, "<H", 2056 | 32, True),
    "masked header": ("local", 6, "<H", 2056 | 8192, True),
    "no descriptor here": ("local", 6, "<H", 2048, True),
    "no descriptor in the directory": ("directory", 8, "<H", 2048, True),
    "checksum beside a descriptor": ("local", 14, "<I", 1, True),
    "stored size beside a descriptor": ("local", 18, "<I", 1, True),
    "size beside a descriptor": ("local", 22, "<I", 1, True),
    "checksum of the descriptor": ("descriptor", 4, "<I", 1, True),
    "stored size of the descriptor": ("descriptor", 8, "<I", 1, True),
    "size of the descriptor": ("descriptor", 12, "<I", 1, True),
    "signature of the descriptor": ("descriptor", 0, "<I", 1, True),
    "checksum": ("local", 14, "<I", 1, False),
    "stored size": ("local", 18, "<I", 1, False),
    "size": ("local", 22, "<I", 1, False),
    "size of 64 bits": ("local", 22, "<I", 0xFFFFFFFF, False),
    "name": ("local", 30, "<B", 88, False),
    "length of the name": ("local", 26, "<H", 1, False),
    "signature": ("local", 0, "<I", 1, False),
    "length of the extra field": ("local", 28, "<H", 60000, False),
    "where it begins": ("directory", 42, "<I", 4, False),
    "checksum in the directory": ("directory", 16, "<I", 1, False),
    "both sizes in the directory": ("directory", 20, "<Q", 30_000 * (1 + (1 << 32)), False),
    "one size in the directory": ("directory", 24, "<I", 30_000, False),
    "compression in the directory": ("directory", 10, "<H", 8, False),
    "unknown compression": ("both compressions", 8, "<H", 99, False),
}


@pytest.mark.parametrize("name", ["file/data/0", "file/data.pkl"])
@pytest.mark.parametrize("case", DISAGREE)
def test_a_member_whose_headers_disagree_is_refused(saved: Path, case: str, name: str) -> None:
    where, at, code, value, from_torch = DISAGREE[case]
    data = bytearray((saved if from_torch else repacked(saved)).read_bytes())
    local, record = header_of(bytes(data), name)
    lengths = struct.unpack_from("<2H", data, local + 26)
    (stored_size,) = struct.unpack_from("<I", data, record + 20)
    begins = {
        "local": [local],
        "directory": [record],
        "both": [local, record + 2],
        "both compressions": [local, record + 2],
        "descriptor": [local + 30 + sum(lengths) + stored_size],
    }
    for begin in begins[where]:
        set_bytes(data, begin + at, code, value)
    saved.write_bytes(data)
    refused = r"file\.pt.*(is damaged|truncated|not a file that torch|neither)"
    with pytest.raises(UnreadableFileError, match=refused):
        load_pickle(saved)
    with pytest.raises(UnreadableFileError, match=refused):
        open_checkpoint(saved).read(["x"])


def test_two_members_of_one_name_are_refused(saved: Path) -> None:
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(saved, "a") as archive,
    ):
        archive.writestr("file/data/0", bytes(20_000))
    with pytest.raises(UnreadableFileError, match="two members 'file/data/0'"):
        open_checkpoint(saved)


def test_members_that_overlap_are_refused(saved: Path) -> None:
    data = bytearray(repacked(saved).read_bytes())
    local, record = header_of(bytes(data), "file/data/0")
    for begin in (local + 18, record + 20):  # both sizes, in both headers
        set_bytes(data, begin, "<Q", 20_400 * (1 + (1 << 32)))
    saved.write_bytes(data)
    with pytest.raises(UnreadableFileError, match="'file/data/0' overlaps what follows it"):
        open_checkpoint(saved).read(["x"])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_changed_bytes_are_found_by_their_checksum(saved: Path, compression: int) -> None:
    data = bytearray(repacked(saved, compression).read_bytes())
    local, _ = header_of(bytes(data), "file/data/0")
    data[local + 4_000] ^= 1
    saved.write_bytes(data)
    checkpoint = open_checkpoint(saved)
    with pytest.raises(UnreadableFileError, match="'file/data/0'"):
        checkpoint.check_crcs(["x"])
    checkpoint.check_crcs(["y"])


def test_more_than_was_promised_is_not_decompressed() -> None:
    data = zlib.compress(bytes(50 << 20), 9)[2:-4]
    header = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 5, len(data), 7, 1, 0) + b"a"
    file = io.BytesIO(header + data)
    member = ZipMember("a", 0, len(header + data), 7, len(data), 8, 0, 5)
    assert member.read(file, 2, 3) == bytes(3)
    with pytest.raises(DamagedZipError, match="do not have the size"):
        member.check_crc(file)


def test_sizes_of_64_bits_are_read_from_the_extra_field(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a")
        with archive.open(info, "w", force_zip64=True) as member:
            member.write(b"contents")
    with path.open("rb") as file:
        assert zip_members(file)["a"].contents(file) == b"contents"


def test_directories_too_large_for_any_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", b"")
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    record = data[start : data.index(b"PK\5\6")]
    count = (9 << 20) // len(record)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, count * len(record), start, 0)
    path.write_bytes(data[:start] + count * record + end)
    with pytest.raises(UnreadableFileError, match=r"its zip directory has 9,437,\d+ bytes"):
        open_checkpoint(path)


LARGE = 9 << 20
"""More than the directory of any model has."""


@pytest.mark.parametrize("comment", [b"", b"a comment", b"c" * 65_535])
def test_large_directory_is_refused(comment, tmp_path):
    data = directory_entries(LARGE)
    path = tmp_path / "x.pt"
    path.write_bytes(data[:-2] + struct.pack("<H", len(comment)) + comment)
    with pytest.raises(UnreadableFileError, match=r"zip directory has 9,4\d\d,\d\d\d bytes"):
        open_checkpoint(path)


def test_large_directory_of_zip64_is_refused(tmp_path):
    data = directory_entries(LARGE)
    *_, size, start, _ = struct.unpack("<4s4H2LH", data[-22:])
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    old = struct.pack("<4s4H2LH", b"PK\5\6", *[0xFFFF] * 4, *[0xFFFFFFFF] * 2, 0)
    path = tmp_path / "x.pt"
    path.write_bytes(data[:-22] + end + locator + old)
    with zipfile.ZipFile(path) as archive:  # it reads the same directory
        assert len(archive.infolist()) > 100_000
    with pytest.raises(UnreadableFileError, match=f"zip directory has {size:,} bytes"):
        open_checkpoint(path)


@pytest.mark.parametrize("data", [b"PK\3\4", b"PK\3\4" + b"PK\5\6", b"PK\3\4" + b"\0" * 70_000])
def test_what_is_no_directory_is_named(data, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(UnreadableFileError, match="not a zip file"):
        open_checkpoint(path)
