"""The nodes that save and load conditioning; the file is tested in tests/clip."""

import pytest
import torch
from core_conditioning import write_core
from safetensors import safe_open
from safetensors.torch import save_file
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.host.model_folders import ModelNotFoundError


def conditioning():
    return [[torch.randn(1, 77, 32), {"pooled_output": torch.randn(1, 32)}]]


def saved(nodes, conditioning, standalone, prefix="conditioning/sd2", **hidden):
    ui = nodes["SaveSD2Conditioning"].save(conditioning, prefix, **hidden)["ui"]
    (entry,) = ui["conditioning"]
    return standalone.output_directory() / entry["subfolder"] / entry["filename"]


@pytest.mark.parametrize("prefix", ["sd2", "conditioning/sd2"])
def test_what_is_saved_can_be_loaded_from_the_output_folder(prefix, nodes, standalone):
    entries = conditioning()
    path = saved(nodes, entries, standalone, prefix)
    name = path.relative_to(standalone.output_directory()).as_posix()
    declared = NODE_CLASS_MAPPINGS["LoadSD2Conditioning"].INPUT_TYPES()["required"]
    assert f"{name} [output]" in declared["conditioning_name"][0]
    (loaded,) = nodes["LoadSD2Conditioning"].load(f"{name} [output]")
    assert torch.equal(loaded[0][0], entries[0][0])


def test_the_node_shows_the_file_and_the_shape(nodes, standalone):
    ui = nodes["SaveSD2Conditioning"].save(conditioning(), "sd2")["ui"]
    [text] = ui["text"]
    assert "sd2_00001_.safetensors" in text
    assert "[1, 77, 32]" in text


@pytest.mark.parametrize("embeds", [True, False])
def test_a_host_decides_whether_files_hold_the_workflow(embeds, nodes, standalone, monkeypatch):
    monkeypatch.setattr(standalone, "embeds_workflows", lambda: embeds)
    hidden = {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {}}}
    path = saved(nodes, conditioning(), standalone, **hidden)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del metadata["sd2_clip"], metadata["conditioning_options"]
    assert metadata == ({"prompt": '{"1": {}}', "workflow": "{}"} if embeds else {})


def test_conditioning_outside_the_folders_is_not_found(nodes, standalone):
    with pytest.raises(ModelNotFoundError):
        nodes["LoadSD2Conditioning"].load("../secret.safetensors [output]")
    message = NODE_CLASS_MAPPINGS["LoadSD2Conditioning"].VALIDATE_INPUTS("gone.safetensors")
    assert "gone.safetensors" in message


def test_saved_conditioning_in_models_embeddings_can_be_loaded(nodes, standalone, tmp_path):
    folder = tmp_path / "models" / "embeddings"
    write_core(folder / "core.safetensors", [[torch.ones(1, 77, 1024), {"strength": 0.5}]])
    save_file({"emb_params": torch.zeros(99, 1024)}, folder / "inversion.safetensors")
    (folder / "broken.safetensors").write_bytes(bytes(200_000))
    declared = NODE_CLASS_MAPPINGS["LoadSD2Conditioning"].INPUT_TYPES()["required"]
    offered = [name for name in declared["conditioning_name"][0] if name.endswith("[embeddings]")]
    assert offered == ["core.safetensors [embeddings]"]
    assert NODE_CLASS_MAPPINGS["LoadSD2Conditioning"].VALIDATE_INPUTS(offered[0]) is True
    ([[cond, options]],) = nodes["LoadSD2Conditioning"].load(offered[0])
    assert torch.equal(cond, torch.ones(1, 77, 1024))
    assert options == {"strength": 0.5}


def test_a_name_that_comes_by_a_link_is_checked_when_it_is_known(standalone):
    node = NODE_CLASS_MAPPINGS["LoadSD2Conditioning"]
    assert node.VALIDATE_INPUTS(conditioning_name=None) is True
    changed = node.IS_CHANGED(conditioning_name=None)
    assert changed != changed  # nan: it is run each time
