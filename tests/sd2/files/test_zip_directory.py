"""A zip file's directory is bounded before zipfile makes an object of each entry."""

import struct
import zipfile

import pytest
from hostile_costs import directory_entries
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint

LARGE = 9 << 20


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
