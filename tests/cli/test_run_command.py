"""sd2-clip run: what it prints of a workflow that ran, and of one that did not."""

import json
from functools import partial

import layouts
import pytest
import torch
from sd2_clip import cli
from sd2_clip.clip import load_clip
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection import detect

LOAD = {"class_type": "LoadSD2CLIP", "inputs": {"clip_name": "sd2.safetensors"}}
ENCODE = {"class_type": "EncodeSD2Text", "inputs": {"clip": ["1", 0], "text": "a castle"}}
SAVE = {
    "class_type": "SaveSD2Conditioning",
    "inputs": {"conditioning": ["2", 0], "filename_prefix": "x"},
}


@pytest.fixture
def folder(standalone, tmp_path, monkeypatch):
    """A folder with a models folder of a tiny encoder, where commands run."""
    monkeypatch.setattr(detect, "load_config", lambda: load_config(layouts.TINY_CONFIG))
    sizes = {"clip_h_model_config": layouts.TINY_CONFIG}
    monkeypatch.setattr(load_clip, "load_clip", partial(load_clip.load_clip, model_options=sizes))
    monkeypatch.chdir(tmp_path)
    encoder = layouts.diffusers(layouts.canonical_encoder())
    layouts.save_safetensors(encoder, tmp_path / "models/text_encoders/sd2.safetensors")
    return tmp_path


@pytest.fixture
def run(folder, capsys):
    def run_graph(changes=None, *options):
        graph = {"1": LOAD, "2": ENCODE, "3": SAVE} | (changes or {})
        (folder / "workflow.json").write_text(json.dumps(graph))
        status = cli.main(["run", "workflow.json", *map(str, options)])
        return status, capsys.readouterr()

    return run_graph


def texts(text):
    return {"2": {"class_type": "EncodeSD2TextList", "inputs": {"clip": ["1", 0], "texts": text}}}


def test_each_node_says_what_it_did_in_a_line(run):
    status, said = run()
    assert status == 0, said.err
    loaded, encoded, saved, done = said.out.splitlines()
    assert loaded == (
        "node 1 (Load SD2 CLIP): diffusers text encoder, prefix 'text_model.'; as float32, encodes "
        "on cpu"
    )
    assert encoded.startswith(
        "node 2 (Encode SD2 Text): 2 tokens, 1 chunk of 77: conditioning of 77 rows; layer "
    )
    assert saved.startswith("saved ")
    assert done.startswith("done in ")


def test_of_a_list_the_first_few_texts_are_reported(run):
    status, said = run(texts("\n".join("abcde")))
    assert status == 0, said.err
    lines = [line for line in said.out.splitlines() if "Encode SD2 Text List" in line]
    assert len(lines) == 3
    assert "  and 2 more" in said.out.splitlines()


def test_what_a_lora_and_an_inversion_did_is_said(run, folder):
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    width, inner = 32, layouts.TINY_CONFIG["intermediate_size"]
    lora = {
        f"{name}.lora_down.weight": torch.ones(1, width),
        f"{name}.lora_up.weight": torch.ones(inner, 1),
    }
    layouts.save_safetensors(lora, folder / "models/loras/ink.safetensors")
    layouts.save_safetensors(
        {"emb_params": torch.zeros(2, width)}, folder / "models/embeddings/oil.safetensors"
    )
    inputs = {"clip": ["1", 0], "lora_name": "ink.safetensors"}
    encode = {"clip": ["4", 0], "text": "embedding:oil embedding:not-there"}
    status, said = run(
        {
            "4": {"class_type": "LoadSD2CLIPLora", "inputs": inputs},
            "2": {"class_type": "EncodeSD2Text", "inputs": encode},
        }
    )
    assert status == 0, said.err
    assert "1 weights in 1 layers changed at strength 1" in said.out
    assert "embeddings: oil (2 vectors)" in said.out
    assert "not-there" not in said.out  # it is a warning in the log


def test_json_has_no_other_lines(run):
    status, said = run(None, "--json")
    assert status == 0
    assert set(json.loads(said.out)) == {"outputs", "errors", "seconds"}


def test_a_missing_file_is_a_sentence_without_words_of_the_api(run, folder):
    gone = {"1": {"class_type": "LoadSD2CLIP", "inputs": {"clip_name": "gone.ckpt"}}}
    status, said = run(gone)
    assert status == 1
    assert "node 1 (Load SD2 CLIP): 'gone.ckpt' is in none of the model folders" in said.err
    assert "ustom validation" not in said.err
    assert not (folder / "output").exists()


def test_without_a_models_folder_the_option_is_named(run, folder):
    (folder / "models").rename(folder / "elsewhere")
    status, said = run()
    assert status == 1
    assert "node 1 (Load SD2 CLIP): 'sd2.safetensors' was not found" in said.err
    assert "--models DIR" in said.err
    assert "--set" not in said.err


def test_in_a_plain_folder_no_text_encoder_is_offered_for_a_lora(run, folder):
    inputs = {"clip": ["1", 0], "lora_name": "gone.safetensors"}
    lora = {"class_type": "LoadSD2CLIPLora", "inputs": inputs}
    encode = {"class_type": "EncodeSD2Text", "inputs": {"clip": ["4", 0], "text": "a"}}
    status, said = run({"4": lora, "2": encode}, "--models", folder / "models/text_encoders")
    assert status == 1
    [line] = [line for line in said.err.splitlines() if "node 4" in line]
    assert line.endswith("Put the file there.")
    (folder / "models/loras/own.safetensors").touch()
    status, said = run({"4": lora, "2": encode}, "--models", folder / "models")
    assert "choose one of their files: own.safetensors." in said.err


@pytest.mark.parametrize("name", ["LoadSD2LoRA", "loadsd2clip", "EncodeSD2Txt"])
def test_a_misspelt_class_is_not_taken_for_comfyuis(name, run):
    status, said = run({"2": {"class_type": name, "inputs": ENCODE["inputs"]}})
    assert status == 1
    assert "did you mean" in said.err
    assert "needs ComfyUI" not in said.err


def test_the_demo_says_what_is_wrong_with_its_file_alone(folder, capsys):
    (folder / "page.safetensors").write_text("<!DOCTYPE html>" * 9)
    assert cli.main(["demo", "--checkpoint", "page.safetensors"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("sd2-clip demo: page.safetensors: a web page, not a model")
    assert "First steps" not in said
    assert not (folder / "demo").exists()


def test_without_a_command_the_help_is_shown(capsys):
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert all(f"    {name} " in said for name in cli.COMMANDS)
