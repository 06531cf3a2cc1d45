"""Conditioning on disk: it comes back as it was, under a name of its own, inside the folder."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sd2_clip.clip.conditioning_file import (
    ConditioningError,
    load_conditioning,
    save_conditioning,
    save_numbered,
)


def conditioning():
    return [[torch.randn(1, 77, 32), {"pooled_output": torch.randn(1, 32)}]]


def saved(folder: Path, prefix: str = "conditioning/sd2") -> Path:
    return save_numbered(folder, prefix, conditioning(), {})


def test_saved_conditioning_comes_back_as_it_was(tmp_path):
    pooled = torch.randn(1, 32)
    options = {
        "pooled_output": pooled,
        "start_percent": 0.0,
        "area": (1, 2, 3),
        "reference_latents": [torch.ones(1, 2), torch.zeros(3)],
        "cond": torch.arange(9),
        "0.cond": torch.arange(4),
        "limits": {"low": float("-inf"), 3: [None, True, ("a", {"$tensor": "no tensor"})]},
        "text": "half a pair \ud83d",
    }
    before = [[torch.randn(1, 77, 32), options], [torch.randn(1, 154, 32).half(), {"p": pooled}]]
    save_conditioning(tmp_path / "x.safetensors", before)
    loaded = load_conditioning(tmp_path / "x.safetensors")
    torch.testing.assert_close([cond for cond, _ in loaded], [cond for cond, _ in before])
    torch.testing.assert_close(loaded[1][1]["p"], pooled)  # shared with the first entry
    found = loaded[0][1]
    assert list(found) == list(options)
    for key, value in options.items():
        if key in ("limits", "text", "start_percent", "area"):
            assert found[key] == value
            assert type(found[key]) is type(value)
        else:
            torch.testing.assert_close(found[key], value)


@pytest.mark.parametrize(
    "about", ['{"format": "sd2_clip.conditioning/1"}', "[", "[]", '{"format": 3}']
)
def test_a_damaged_file_is_named(about, tmp_path):
    save_file({"0.cond": torch.zeros(2)}, tmp_path / "bad.safetensors", {"sd2_clip": about})
    with pytest.raises(ConditioningError, match=r"bad\.safetensors"):
        load_conditioning(tmp_path / "bad.safetensors")


def test_a_safetensors_file_of_something_else_is_named(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConditioningError, match=r"not one that Save SD2 .*\(it holds weight\)"):
        load_conditioning(tmp_path / "other.safetensors")


def test_a_file_of_another_format_is_named(tmp_path):
    (tmp_path / "x.safetensors").write_text("no safetensors")
    with pytest.raises(ConditioningError, match="cannot be read as conditioning"):
        load_conditioning(tmp_path / "x.safetensors")


def test_what_json_cannot_hold_is_named(tmp_path):
    entries = conditioning()
    entries[0][1]["control"] = object()
    with pytest.raises(ConditioningError, match="'control' is a object"):
        save_conditioning(tmp_path / "x.safetensors", entries)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_conditioning_is_not_saved(tmp_path):
    with pytest.raises(ConditioningError, match="the list is empty"):
        save_numbered(tmp_path, "x", [], {})
    assert list(tmp_path.iterdir()) == []


def test_every_save_takes_the_next_number(tmp_path):
    names = [saved(tmp_path, "mine").name for _ in range(2)]
    assert names == ["mine_00001_.safetensors", "mine_00002_.safetensors"]
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.mark.parametrize(
    "prefix", ["../out", "/tmp/out", "a/../../../out", "", ".", "a/..", "a:b", "C:/x"]
)
def test_nothing_is_saved_outside_the_output_folder(prefix, tmp_path):
    folder = tmp_path / "output"
    with pytest.raises(ConditioningError, match="leads out of the output folder"):
        saved(folder, prefix)
    assert list(tmp_path.rglob("*_00001_*")) == []


def test_an_output_folder_may_be_named_by_a_detour(tmp_path):
    (tmp_path / "models").mkdir()
    assert saved(tmp_path / "models" / ".." / "output").exists()


def test_a_number_that_another_took_meanwhile_is_not_taken_again(tmp_path, monkeypatch):
    first = saved(tmp_path)
    before = first.read_bytes()
    # A fake of the race: the other's file appears after the folder was listed.
    monkeypatch.setattr("os.listdir", lambda _folder: [])
    second = saved(tmp_path)
    assert second.name == "sd2_00002_.safetensors"
    assert first.read_bytes() == before


def test_the_date_may_be_part_of_the_prefix(tmp_path):
    path = saved(tmp_path, "sd2_%year%-%month%")
    assert re.fullmatch(r"sd2_\d{4}-\d\d_00001_\.safetensors", path.name)
