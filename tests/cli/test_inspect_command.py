"""sd2-clip inspect: one file in full, several and folders of them a line each."""

import json

import pytest
import torch
from browser_models import write_expanded
from safetensors.torch import save_file
from sd2_clip import cli
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.state_dict_keys import text_model_shapes


def write_encoder(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_expanded(path, dict(text_model_shapes(load_config(), range(23))))


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A models folder as a user's: right and wrong files, a diffusers folder, a sharded set."""
    monkeypatch.chdir(tmp_path)
    write_encoder(tmp_path / "models/text_encoders/open_clip_pytorch_model.safetensors")
    write_encoder(tmp_path / "models/text_encoders/sd2.safetensors")
    write_encoder(tmp_path / "models/checkpoints/sd21/text_encoder/model.safetensors")
    (tmp_path / "models/checkpoints/sd21/model_index.json").write_text("{}")
    (tmp_path / "models/text_encoders/page.safetensors").write_text("<!DOCTYPE html>\n" * 40)
    (tmp_path / "models/loras").mkdir()
    lora = {"lora_te_x.lora_down.weight": torch.ones(1, 1024)}
    save_file(lora, tmp_path / "models/loras/ink.safetensors")
    for number in (1, 2):
        save_file(
            {f"unet.{number}": torch.ones(1)},
            tmp_path / f"models/loras/set-0000{number}-of-00002.safetensors",
        )
    return tmp_path / "models"


@pytest.fixture
def inspect(models, capsys):
    def run(*words):
        status = cli.main(["inspect", *map(str, words)])
        return status, capsys.readouterr()

    return run


GOOD = "SD2's text encoder: diffusers text encoder, 23 of 24 layers, F16"
PAGE = "a web page, not a model: the download led to a login or error page"


def test_one_file_is_described_in_full(inspect):
    status, said = inspect("models/text_encoders/sd2.safetensors")
    assert status == 0
    assert said.out.startswith("Text encoder: ")
    assert "\nLayers:       23 of 24" in said.out


@pytest.mark.parametrize("folder", ["sd21", "sd21/text_encoder"])
def test_a_folder_of_one_model_is_described_in_full(folder, inspect):
    status, said = inspect(f"models/checkpoints/{folder}")
    assert status == 0
    assert said.out.startswith("Text encoder: ")


def test_a_folder_of_several_is_a_line_for_each_right_or_wrong(inspect):
    status, said = inspect("models")
    assert (status, said.err) == (0, "")
    told = dict(line.split(": ", 1) for line in said.out.splitlines())
    assert set(told) == {
        "models/checkpoints/sd21",
        "models/loras/ink.safetensors",
        "models/loras/set-00001-of-00002.safetensors",
        "models/text_encoders/open_clip_pytorch_model.safetensors",
        "models/text_encoders/page.safetensors",
        "models/text_encoders/sd2.safetensors",
    }
    assert told["models/checkpoints/sd21"] == GOOD
    assert told["models/text_encoders/sd2.safetensors"] == GOOD
    assert told["models/text_encoders/page.safetensors"] == PAGE
    assert "LoRA" in told["models/loras/ink.safetensors"]


def test_a_usual_name_in_a_folder_does_not_hide_the_others(inspect):
    assert len(inspect("models/text_encoders")[1].out.splitlines()) == 3


def test_several_files_are_a_line_each_and_one_that_is_right_is_enough(inspect):
    sd2, page = "models/text_encoders/sd2.safetensors", "models/text_encoders/page.safetensors"
    status, said = inspect(sd2, page, "gone.ckpt")
    assert status == 0
    assert said.out.splitlines() == [f"{sd2}: {GOOD}", f"{page}: {PAGE}", "gone.ckpt: no such file"]
    assert inspect(page, "gone.ckpt")[0] == 1


def test_json_of_several_is_a_list(inspect):
    status, said = inspect("models/text_encoders", "--json")
    assert status == 0
    told = json.loads(said.out)
    assert len(told) == 3
    by_path = {one["path"]: one for one in told}
    assert "web page" in by_path["models/text_encoders/page.safetensors"]["error"]
    assert by_path["models/text_encoders/sd2.safetensors"]["layers"] == 23


def test_json_of_one_is_an_object(inspect):
    told = json.loads(inspect("models/text_encoders/sd2.safetensors", "--json")[1].out)
    assert told["layers"] == 23


def test_a_folder_without_models_says_what_it_holds(inspect, tmp_path):
    (tmp_path / "books/novels").mkdir(parents=True)
    (tmp_path / "books/list.txt").touch()
    status, said = inspect("books")
    assert status == 1
    assert "no model file (it holds list.txt, novels/)" in said.err
