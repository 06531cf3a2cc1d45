"""Conditioning on disk: it comes back as it was, under a name of its own, inside the folder."""

import json
import re
from pathlib import Path

import pytest
import torch
from core_conditioning import read_core, write_core
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


def assert_equal(found, expected):
    assert list(map(len, found)) == list(map(len, expected))
    for (cond, options), (expected_cond, expected_options) in zip(found, expected, strict=True):
        torch.testing.assert_close(cond, expected_cond, rtol=0, atol=0)
        assert sorted(options) == sorted(expected_options)
        for name, value in expected_options.items():
            if isinstance(value, str | float | int | None):
                assert (options[name], type(options[name])) == (value, type(value))
            else:
                torch.testing.assert_close(options[name], value, rtol=0, atol=0)


CORE = {
    "pooled_output": torch.randn(1, 32),
    "reference_latents": [torch.full((1, 2), float(number)) for number in range(12)],
    "start_percent": 0.25,
    "strength": 2,
    "guided": True,
    "prompt_type": "image",
}


@pytest.mark.parametrize("options", [{}, CORE], ids=["plain", "options"])
def test_comfyuis_files_are_read(options, tmp_path):
    before = [[torch.randn(1, 77, 32).half(), options]]
    write_core(tmp_path / "core.safetensors", before)
    assert_equal(load_conditioning(tmp_path / "core.safetensors"), before)


@pytest.mark.parametrize("options", [{}, CORE], ids=["plain", "options"])
def test_comfyui_reads_one_entry(options, tmp_path):
    before = [[torch.randn(1, 77, 32), options]]
    save_conditioning(tmp_path / "ours.safetensors", before, {"prompt": "{}"})
    assert_equal(read_core(tmp_path / "ours.safetensors"), before)
    assert_equal(load_conditioning(tmp_path / "ours.safetensors"), before)


def test_a_file_of_a_conditioning_tensor_alone_is_read(tmp_path):
    save_file({"conditioning": torch.ones(1, 2, 1024)}, tmp_path / "x.safetensors")
    assert_equal(load_conditioning(tmp_path / "x.safetensors"), [[torch.ones(1, 2, 1024), {}]])


def test_none_and_areas_reach_comfyui_as_far_as_json_has_them(tmp_path):
    options = {"pooled_output": None, "area": (64, 64, 0, 0), "control_apply_to_uncond": False}
    before = [[torch.randn(1, 77, 32), options]]
    save_conditioning(tmp_path / "x.safetensors", before)
    [(_, core)] = read_core(tmp_path / "x.safetensors")
    assert core == {"area": [64, 64, 0, 0], "control_apply_to_uncond": False}
    [(_, ours)] = load_conditioning(tmp_path / "x.safetensors")
    assert ours == options


@pytest.mark.parametrize(
    "options",
    [
        {"conditioning": torch.ones(2)},
        {"latent.0": torch.ones(2)},
        {"latent": [torch.ones(2), None]},
        {"nested": {"tensor": torch.ones(2)}},
        {"nested": [[torch.ones(2)]]},
        {"limits": {"low": 1}},
    ],
    ids=["its name", "an item's name", "mixed", "dict", "lists", "no tensor"],
)
def test_what_comfyui_would_misread_is_not_given_to_it(options, tmp_path):
    before = [[torch.randn(1, 77, 32), options]]
    save_conditioning(tmp_path / "x.safetensors", before)
    with pytest.raises(KeyError, match="conditioning"):
        read_core(tmp_path / "x.safetensors")
    [(cond, found)] = load_conditioning(tmp_path / "x.safetensors")
    torch.testing.assert_close(cond, before[0][0])
    torch.testing.assert_close(found, options)


@pytest.mark.parametrize(
    ("width", "model"),
    [
        (768, "Stable Diffusion 1.x"),
        (1280, "SDXL refiner"),
        (2048, "SDXL"),
        (3584, "Qwen"),
        (4096, "Flux"),
    ],
)
def test_conditioning_for_another_model_is_refused_with_its_name(width, model, tmp_path):
    write_core(tmp_path / "x.safetensors", [[torch.zeros(1, 7, width), {}]])
    with pytest.raises(ConditioningError, match=rf"{width} wide, for .*{model}.*1024 wide"):
        load_conditioning(tmp_path / "x.safetensors")


@pytest.mark.parametrize("options", ["[", "[]", "3", '"text"', "null"])
def test_damaged_options_of_comfyui_are_named(options, tmp_path):
    tensors = {"conditioning": torch.zeros(1, 7, 32)}
    save_file(tensors, tmp_path / "bad.safetensors", {"conditioning_options": options})
    with pytest.raises(ConditioningError, match=r"bad\.safetensors is damaged"):
        load_conditioning(tmp_path / "bad.safetensors")


def test_files_of_one_entry_from_before_are_read(tmp_path):
    cond, pooled = torch.randn(1, 77, 32), torch.randn(1, 32)
    record = {"text": "a cat", "weights": {"patched_tensors": 0}, "changed_since_encoding": False}
    layout = {
        "format": "sd2_clip.conditioning/1",
        "entries": [
            {
                "cond": "0.cond",
                "options": {"pooled_output": {"$tensor": "0.pooled_output"}, "sd2_clip": record},
            }
        ],
    }
    tensors = {"0.cond": cond, "0.pooled_output": pooled}
    save_file(tensors, tmp_path / "old.safetensors", {"sd2_clip": json.dumps(layout)})
    loaded = load_conditioning(tmp_path / "old.safetensors")
    assert_equal(loaded, [[cond, {"pooled_output": pooled, "sd2_clip": json.dumps(record)}]])
    write_core(tmp_path / "core.safetensors", loaded)  # so ComfyUI's node can save it


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


@pytest.mark.parametrize("key", ["sd2_clip", "conditioning_options"])
def test_deep_metadata_is_named(key, tmp_path):
    deep = "[" * 900 + "]" * 900
    record = '"format": "sd2_clip.conditioning/1", "entries": [{"cond": "conditioning", '
    text = f'{{{record}"options": {{"a": {deep}}}}}]}}' if key == "sd2_clip" else f'{{"a": {deep}}}'
    path = tmp_path / "x.safetensors"
    save_file({"conditioning": torch.ones(1, 77, 1024)}, path, {key: text})
    if key == "sd2_clip":  # a record that cannot be read is none, and the tensor is core's
        assert load_conditioning(path)[0][0].shape == (1, 77, 1024)
    else:
        with pytest.raises(ConditioningError, match="damaged conditioning") as caught:
            load_conditioning(path)
        assert "Error(" not in str(caught.value)
