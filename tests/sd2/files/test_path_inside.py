"""A name never leads out of its folder; links do only where the name comes from the owner."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sd2_clip.sd2.files.path_inside import OutsideFolderError, path_inside

FOLDER = Path("/models/clip")


@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize(
    ("name", "path"),
    [("a.pt", "a.pt"), ("a/b.pt", "a/b.pt"), ("a\\b.pt", "a/b.pt"), ("./a", "a"),
     ("a/../b", "b"), ("..a", "..a")],
)  # fmt: skip
def test_names_below_the_folder_are_joined(name, path, untrusted):
    assert path_inside(FOLDER, name, untrusted=untrusted) == FOLDER / path


@pytest.mark.parametrize("untrusted", [False, True])
@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/..", "../clip2/x", "..\\x", "a/../../x", "/etc/passwd", "a\0b"]
)
def test_names_that_lead_out_are_refused(name, untrusted):
    with pytest.raises(OutsideFolderError):
        path_inside(FOLDER, name, untrusted=untrusted)


@pytest.mark.parametrize("name", ["C:x", "file:stream"])
def test_drives_and_streams_of_windows_are_refused_over_the_network(name):
    with pytest.raises(OutsideFolderError):
        path_inside(FOLDER, name, untrusted=True)


def test_a_link_may_leave_the_folder_unless_the_name_is_untrusted(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path)
    assert path_inside(tmp_path / "in", "link/a") == tmp_path / "in/link/a"
    with pytest.raises(OutsideFolderError, match="by a link"):
        path_inside(tmp_path / "in", "link/a", untrusted=True)


def test_a_link_inside_the_folder_is_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert path_inside(tmp_path, "link/b", untrusted=True) == tmp_path / "link/b"


@given(st.lists(st.sampled_from(["a", "..", "/", "\\", ".", "\0", ":"]), max_size=8).map("".join))
def test_whatever_the_name_the_path_is_below_the_folder(name):
    try:
        path = path_inside(FOLDER, name)
    except OutsideFolderError:
        return
    assert FOLDER in path.parents
    assert ".." not in path.parts
