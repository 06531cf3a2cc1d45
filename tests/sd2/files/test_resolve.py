"""Shards, indexes and folders are resolved to the files that hold the weights."""

import json

import pytest
from layouts import save_pickle, save_safetensors, save_shards
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from tensor_files import STATE, equal


def names_of(path):
    checkpoint = open_checkpoint(path)
    return checkpoint, [file.name for file in checkpoint.files]


PREFERENCES = [
    (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
    (["model.fp16.safetensors", "model.safetensors"], "model.safetensors"),
    (["model.fp16.safetensors", "pytorch_model.bin"], "model.fp16.safetensors"),
    (["pytorch_model.bin", "pytorch_model.fp16.bin"], "pytorch_model.bin"),
    (["model.fp16.safetensors"], "model.fp16.safetensors"),
    (["open_clip_pytorch_model.bin", "training_args.bin"], "open_clip_pytorch_model.bin"),
    (["my-encoder.safetensors"], "my-encoder.safetensors"),
]


@pytest.mark.parametrize(("there", "chosen"), PREFERENCES, ids=lambda value: str(value))
@pytest.mark.parametrize("inner", ["", "text_encoder"], ids=["folder", "pipeline"])
def test_choice_in_a_folder_prefers_safe_and_full_precision(there, chosen, inner, tmp_path):
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    for name in there:
        save = save_safetensors if name.endswith("safetensors") else save_pickle
        save(STATE, folder / name)
    checkpoint, files = names_of(tmp_path)
    assert files == [chosen]
    assert any(chosen in note for note in checkpoint.notes)


def test_pipeline_folder_is_noted(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    save_safetensors(STATE, tmp_path / "text_encoder" / "model.safetensors")
    save_safetensors(STATE, tmp_path / "v2-1_768-ema-pruned.safetensors")
    checkpoint, _ = names_of(tmp_path)
    assert checkpoint.files[0].parent.name == "text_encoder"
    assert "pipeline" in checkpoint.notes[0]


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("named", ["folder", "index", "shard"])
def test_sharded_set_is_read_whole_whatever_is_named(pickled, named, tmp_path):
    save_shards(STATE, tmp_path, pickled=pickled)
    pattern = {"folder": None, "index": "*.index.json", "shard": "*-00002-of-00003.*"}[named]
    path = tmp_path if pattern is None else next(tmp_path.glob(pattern))
    checkpoint = open_checkpoint(path)
    assert equal(checkpoint.read(STATE), STATE)
    assert len(checkpoint.files) == 3


def test_shards_need_no_index(tmp_path):
    save_shards(STATE, tmp_path)
    next(tmp_path.glob("*.json")).unlink()
    assert open_checkpoint(next(tmp_path.glob("*-00001-*"))).tensors.keys() == STATE.keys()


def test_diffusers_variant_index_is_found(tmp_path):
    save_shards(STATE, tmp_path)
    index = next(tmp_path.glob("*.json"))
    index.rename(tmp_path / "model.safetensors.index.fp16.json")
    assert open_checkpoint(tmp_path).tensors.keys() == STATE.keys()


def test_missing_shard_is_named(tmp_path):
    save_shards(STATE, tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    for path in (tmp_path, tmp_path / "model-00001-of-00003.safetensors"):
        with pytest.raises(UnreadableFileError, match=r"1 are missing: model-00002-of-00003"):
            open_checkpoint(path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a\\b", "C:x", "..", ""])
def test_index_cannot_lead_out_of_its_folder(name, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(UnreadableFileError, match="outside its own folder"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "no model file"),
        ({"model_index.json": "{}"}, "without its text_encoder"),
        ({"a.safetensors": "", "b.ckpt": ""}, r"2 model files: a\.safetensors, b\.ckpt"),
        ({"readme.md": ""}, r"readme\.md"),
    ],
    ids=["empty", "pipeline-without-encoder", "several", "no-weights"],
)
def test_folder_without_a_clear_choice_is_an_error(files, named, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UnreadableFileError, match=named):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "named"),
    [("{", "not readable as JSON"), ("[]", "not a model"), ('{"weight_map": {}}', "not a model"),
     ('{"hidden_size": 1024}', "not a model")],
    ids=["broken", "list", "empty-map", "config"],
)  # fmt: skip
def test_other_json_files_are_no_index(text, named, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=named):
        open_checkpoint(path)


def test_missing_file_and_dangling_link_are_named(tmp_path):
    with pytest.raises(UnreadableFileError, match="no such file"):
        open_checkpoint(tmp_path / "nothing.safetensors")
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(UnreadableFileError, match="link to a missing file"):
        open_checkpoint(link)
