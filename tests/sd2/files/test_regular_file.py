import os
import socket
from pathlib import Path

import pytest
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.regular_file import check_regular_file, special_kind

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has other kinds of files")


def test_files_and_missing_files_pass(tmp_path):
    (tmp_path / "file").touch()
    for name in ("file", "nothing", "nul\0", "long" * 1_000, "surrogate\ud800"):
        check_regular_file(tmp_path / name)


def test_links_are_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert special_kind(tmp_path / "link") == "a folder"


def test_what_is_not_a_file_is_named(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        kinds = {
            tmp_path: "a folder",
            tmp_path / "pipe": "a named pipe",
            tmp_path / "socket": "a socket",
            Path("/dev/zero"): "a device",
        }
        for path, kind in kinds.items():
            with pytest.raises(UnreadableFileError, match=f"is {kind}, not a file"):
                check_regular_file(path)
