"""Files are written whole or not at all."""

import sys

import pytest
import torch
from safetensors.torch import load_file
from sd2_clip.sd2.errors import OptionError
from sd2_clip.sd2.files.atomic_write import check_writable, replacing, writable, write_safetensors


def test_what_was_there_is_replaced_at_the_end(tmp_path):
    file = tmp_path / "new folder" / "a.json"
    with replacing(file) as partial:
        partial.write_text("old")
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(file.parent.iterdir()) == [file]


def write_half(file):
    with replacing(file) as partial:
        partial.write_text("new")
        raise ZeroDivisionError


def test_after_an_error_all_is_as_it_was(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_tensors_are_readable_for_whom_other_files_are(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", {"x": torch.ones(2)}, {"about": "it"})
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode
    torch.testing.assert_close(load_file(tmp_path / "a.safetensors"), {"x": torch.ones(2)})


def test_an_error_leaves_no_empty_folder_behind(tmp_path):
    new, old, used = tmp_path / "new", tmp_path / "old", tmp_path / "used"
    old.mkdir()

    def fail(folder):
        with writable(folder):
            assert folder.is_dir()
            if folder == used:
                (folder / "result").touch()
            raise KeyError

    for folder in (new, old, used):
        with pytest.raises(KeyError):
            fail(folder)
    assert not new.exists()
    assert old.is_dir()
    assert (used / "result").exists()
    with writable(new):
        pass
    assert new.is_dir()


def test_a_folder_that_takes_nothing_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"file.below cannot be written to"):
        check_writable(tmp_path / "file" / "below")
