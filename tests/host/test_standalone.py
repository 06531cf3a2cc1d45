"""The standalone host: which folders it reads, and the facts that its text encoder gets."""

from pathlib import Path

import pytest
import tiny
import torch
from sd2_clip.host.interface import DevicePlacement
from sd2_clip.host.model_folders import CLIP_KINDS, list_models, resolve_model
from sd2_clip.host.standalone import ModelFoldersError, StandaloneHost
from sd2_clip.sd2.model.encode_cache import EncodeCache

CPU, META = torch.device("cpu"), torch.device("meta")


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def test_a_comfyui_folder_serves_its_models(tmp_path):
    file = touch(tmp_path / "ComfyUI/models/clip/sd2.safetensors")
    runs_in = StandaloneHost([tmp_path / "ComfyUI"])
    assert resolve_model(runs_in, CLIP_KINDS, "sd2.safetensors") == file


def test_any_folder_of_model_files_will_do(tmp_path):
    file = touch(tmp_path / "downloads/sd2.safetensors")
    runs_in = StandaloneHost([tmp_path / "downloads"])
    assert list_models(runs_in, CLIP_KINDS) == ["sd2.safetensors"]
    assert resolve_model(runs_in, CLIP_KINDS, "sd2.safetensors") == file


def test_loose_files_count_beside_folders(tmp_path):
    file = touch(tmp_path / "downloads/sd2.safetensors")
    touch(tmp_path / "downloads/embeddings/style.pt")
    runs_in = StandaloneHost([tmp_path / "downloads"])
    assert resolve_model(runs_in, CLIP_KINDS, "sd2.safetensors") == file
    assert list(runs_in.model_folders("embeddings")) == [tmp_path / "downloads/embeddings"]


def test_extra_model_paths_are_read(tmp_path):
    first = touch(tmp_path / "a1111/models/Stable-diffusion/v2.ckpt")
    second = touch(tmp_path / "a1111/more/v2b.ckpt")
    file = tmp_path / "extra_model_paths.yaml"
    file.write_text(
        "a111:\n  base_path: a1111/\n  is_default: true\n"
        "  checkpoints: |\n    models/Stable-diffusion\n    more\n"
        "  embeddings: embeddings\nempty:\n"
    )
    runs_in = StandaloneHost([file])
    assert resolve_model(runs_in, CLIP_KINDS, "v2.ckpt") == first
    assert resolve_model(runs_in, CLIP_KINDS, "v2b.ckpt") == second
    assert runs_in.model_folders("embeddings") == []  # it does not exist


@pytest.mark.parametrize("text", ["just words", "- a\n- b", "a: [unclosed", "a: words"])
def test_an_unusable_yaml_is_named(text, tmp_path):
    file = tmp_path / "extra_model_paths.yaml"
    file.write_text(text)
    with pytest.raises(ModelFoldersError, match="extra_model_paths"):
        StandaloneHost([file])


def test_a_missing_models_folder_is_an_error(tmp_path):
    with pytest.raises(ModelFoldersError, match="does not exist"):
        StandaloneHost([tmp_path / "nowhere"])


def build(source, **changes):
    arguments = {
        "embedding_directory": [],
        "layer": "penultimate",
        "layer_idx": None,
        "model_options": tiny.MODEL_OPTIONS,
        **changes,
    }
    return StandaloneHost().build_clip(tiny.state_dict(), source=source, **arguments)


def test_the_encoder_gets_the_facts_of_its_source():
    source = tiny.Source(DevicePlacement(CPU, CPU, torch.float16), frozenset({3}), True)
    model = build(source).cond_stage_model
    assert model.source is source
    assert model.clip_h.setup.placeholder_layers == {3}
    assert model.clip_h.setup.placeholder_projection


def test_on_the_cpu_fp16_weights_compute_in_fp32_with_a_cache():
    model = build(tiny.Source(DevicePlacement(CPU, CPU, torch.float16))).cond_stage_model
    assert model.clip_h.setup.compute_dtype == torch.float32
    assert isinstance(model.clip_h.setup.cache, EncodeCache)


def test_on_another_device_weights_compute_in_their_dtype_without_a_cache():
    model = build(tiny.Source(DevicePlacement(META, META, torch.bfloat16))).cond_stage_model
    assert model.clip_h.setup.compute_dtype == torch.bfloat16
    assert model.clip_h.setup.cache is None


def test_the_tokenizer_takes_vectors_of_the_tiny_encoders_width():
    clip = build(tiny.Source(DevicePlacement(CPU, CPU, torch.float32)), embedding_directory=["a"])
    assert clip.tokenizer.clip_h.embedding_size == tiny.CONFIG["hidden_size"]
    assert clip.tokenizer.clip_h.embedding_directory == ["a"]


def test_the_hosts_device_is_used_unless_a_node_names_one():
    runs_in = StandaloneHost(device="cpu")
    assert runs_in.select_device("auto", None).load_device == CPU
    assert "gpu:9 does not exist" in runs_in.select_device("gpu:9", None).notes[0]
