"""The loader node's own checks; what it loads is tested in tests/clip."""

import re
from functools import partial

import layouts
import pytest
import torch
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.clip import load_clip as load_clip_module
from sd2_clip.headless.validation.validate import validate
from sd2_clip.headless.workflow import read_prompt

SMALL = partial(
    load_clip_module.load_clip, model_options={"clip_h_model_config": layouts.TINY_CONFIG}
)
LAST_LAYER = rf"layers\.{layouts.TINY_CONFIG['num_hidden_layers'] - 1}\."


def test_a_name_that_comes_by_a_link_is_checked_when_it_is_known(standalone):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIP"]
    assert node.VALIDATE_INPUTS(clip_name=None) is True
    changed = node.IS_CHANGED(clip_name=None)
    assert changed != changed  # nan: it is run each time


def test_a_replaced_file_changes_the_loaders_identity(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIP"]
    before = node.IS_CHANGED("sd2.safetensors", layer="last")
    assert before == node.IS_CHANGED("sd2.safetensors", layer="last")
    layouts.save_safetensors({"x": torch.zeros(1)}, tmp_path / "models/clip/sd2.safetensors")
    assert node.IS_CHANGED("sd2.safetensors", layer="last") != before


@pytest.mark.parametrize("name", ["sd2.safetensors", ".\\sd2.safetensors"])
def test_a_name_is_checked_with_any_separator(name, clip):
    assert NODE_CLASS_MAPPINGS["LoadSD2CLIP"].VALIDATE_INPUTS(clip_name=name) is True


def faults(**inputs):
    """Input name to message, of a prompt with one loader."""
    prompt = {
        "1": {"class_type": "LoadSD2CLIP", "inputs": inputs},
        "2": {"class_type": "InspectSD2Text", "inputs": {"clip": ["1", 0], "text": ""}},
    }
    checked = validate(read_prompt(prompt, NODE_CLASS_MAPPINGS))
    problems = [problem for bad in checked.bad_nodes.values() for problem in bad.problems]
    return {problem.input_name: problem.details for problem in problems if problem.input_name}


def test_a_missing_file_is_blamed_on_its_name_alone(clip):
    [(name, details)] = faults(clip_name="gone.ckpt", device="gpu:7").items()
    assert name == "clip_name"
    assert "none of the model folders" in details


def test_a_wrong_file_is_an_error_before_the_run(clip, tmp_path):
    layouts.save_safetensors({"x": torch.zeros(1)}, tmp_path / "models/clip/wrong.safetensors")
    [(name, details)] = faults(clip_name="wrong.safetensors").items()
    assert name == "clip_name"
    assert "no SD2 text encoder found" in details


def test_a_gpu_that_is_not_there_is_no_error(clip):
    assert faults(clip_name="sd2.safetensors", device="gpu:7") == {}


def test_a_device_that_is_none_is_an_error_of_the_device(clip):
    assert list(faults(clip_name="sd2.safetensors", device="tpu")) == ["device"]


def test_what_is_beyond_the_usual_is_shown_on_the_node(nodes, clip, monkeypatch):
    monkeypatch.setattr(load_clip_module, "load_clip", SMALL)
    shown = nodes["LoadSD2CLIP"].load("sd2.safetensors", device="gpu:7")
    [note] = [line for line in shown["ui"]["text"] if "gpu:7" in line]
    assert note.startswith("Note: device gpu:7 does not exist")
    _, info = shown["result"]
    assert note.removeprefix("Note: ") in info
    usual = nodes["LoadSD2CLIP"].load("sd2.safetensors", device="cpu")
    assert not [line for line in usual["ui"]["text"] if "gpu" in line]


def test_a_layer_that_the_file_lacks_is_told_on_the_node(nodes, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(load_clip_module, "load_clip", SMALL)
    whole = layouts.canonical_encoder()
    short = {name: tensor for name, tensor in whole.items() if not re.search(LAST_LAYER, name)}
    assert len(short) < len(whole)
    layouts.save_safetensors(short, tmp_path / "models/clip/short.safetensors")
    shown = nodes["LoadSD2CLIP"].load("short.safetensors", layer="last")
    assert [line for line in shown["ui"]["text"] if re.search(r"layer \d+", line)]
    usual = nodes["LoadSD2CLIP"].load("short.safetensors")
    assert usual["ui"]["text"] == []  # SD2 does not use that layer
