"""Textual inversions by name: in a fixed order, inside the folders only, read once."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sd2_clip.sd2.tokens.textual_inversion import (
    Embedding,
    Unusable,
    find_embedding,
    load_embedding,
)

WIDTH = 8
ROWS = torch.arange(3 * WIDTH, dtype=torch.float32).reshape(3, WIDTH) / 4
OTHER = torch.ones(2, 12)


def load(folder: Path, name: str = "e") -> Embedding | Unusable:
    return load_embedding(name, [str(folder)], WIDTH, "clip_h")


def vectors(folder: Path, name: str = "e") -> torch.Tensor:
    found = load(folder, name)
    assert isinstance(found, Embedding), found
    return found.vectors


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("files", "name", "found"),
    [
        (["e.pt", "e.safetensors", "e.bin", "e.png"], "e", "e.safetensors"),
        (["e.bin", "e.pt", "e.png"], "e", "e.pt"),
        (["e.png"], "e", "e.png"),
        (["e", "e.safetensors"], "e", "e"),
        (["e.safetensors", "e.pt"], "e.pt", "e.pt"),
        (["z/e.safetensors", "e.bin"], "e", "e.bin"),
        (["b/e.pt", "a/z/e.pt", "a/e.bin"], "e", "a/e.bin"),
        (["b/e.pt", "a/z/e.pt"], "e", "a/z/e.pt"),
        (["a/e.pt", "b/e.pt"], "b/e", "b/e.pt"),
        (["a/e.pt", "b/e.pt"], "b\\e", "b/e.pt"),
        (["c/b/e.pt"], "b/e", "c/b/e.pt"),
        (["e.pt", "a/x"], "a/../e", "e.pt"),
    ],
)
def test_a_name_means_one_file(tmp_path: Path, files: list[str], name: str, found: str) -> None:
    for file in files:
        touch(tmp_path / file)
    assert find_embedding(name, [str(tmp_path)]) == tmp_path / found


def test_folders_are_searched_in_the_order_given(tmp_path: Path) -> None:
    first, second = touch(tmp_path / "1" / "sub" / "e.bin"), touch(tmp_path / "2" / "e.safetensors")
    folders = [str(tmp_path / "1"), str(tmp_path / "2")]
    assert find_embedding("e", folders) == first
    assert find_embedding("e", folders[::-1]) == second


@pytest.mark.parametrize(
    "name", ["../secret", "a/../../secret", "..\\secret", "", ".", "..", "a", "x\0y", "x" * 5000]
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "secret.pt")
    touch(tmp_path / "in.pt")  # beside the folder "in", of the same name
    touch(tmp_path / "in" / "a" / "e.pt")
    assert find_embedding(name, [str(tmp_path / "in")]) is None


def test_absolute_names_count_inside_the_folder_only(tmp_path: Path) -> None:
    inside, outside = touch(tmp_path / "in" / "e.pt"), touch(tmp_path / "out" / "e.pt")
    assert find_embedding(str(inside), [str(tmp_path / "in")]) == inside
    assert find_embedding(str(outside), [str(tmp_path / "in")]) is None


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "..", "/", "\\", ".", "e"]), max_size=8).map("".join))
def test_whatever_the_name_the_file_is_inside(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.getbasetemp() / "walls"
    touch(root / "e.pt")
    touch(root / "in" / "a" / "e.pt")
    found = find_embedding(name, [str(root / "in")])
    assert found is None or (root / "in") in found.parents


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    target = touch(tmp_path / "elsewhere" / "e.pt")
    inside = tmp_path / "in"
    inside.mkdir()
    try:
        (inside / "link").symlink_to(target.parent)
        (inside / "circle").symlink_to(inside)
    except OSError:
        pytest.skip("this system lets nobody make links")
    assert find_embedding("e", [str(inside)]) == inside / "link" / "e.pt"


def test_edited_and_new_files_are_noticed(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path), Unusable)
    (tmp_path / "sub").mkdir()
    save_file({"emb_params": ROWS}, tmp_path / "sub" / "e.safetensors")
    assert torch.equal(vectors(tmp_path), ROWS)
    save_file({"emb_params": ROWS[:1].clone()}, tmp_path / "sub" / "e.safetensors")
    assert torch.equal(vectors(tmp_path), ROWS[:1])


def test_a_new_subfolder_is_noticed(tmp_path: Path) -> None:
    os.utime(tmp_path, (1e9, 1e9))
    assert find_embedding("e", [str(tmp_path)]) is None
    file = touch(tmp_path / "sub" / "e.pt")
    assert find_embedding("e", [str(tmp_path)]) == file


def test_a_new_subfolder_within_a_tick_of_the_clock_is_noticed(tmp_path: Path) -> None:
    before = tmp_path.stat()
    assert find_embedding("e", [str(tmp_path)]) is None
    file = touch(tmp_path / "sub" / "e.pt")
    os.utime(tmp_path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert find_embedding("e", [str(tmp_path)]) == file


def test_an_unchanged_file_is_read_once(tmp_path: Path) -> None:
    save_file({"emb_params": ROWS}, tmp_path / "e.safetensors")
    assert load(tmp_path) is load(tmp_path)
