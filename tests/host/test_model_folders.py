"""Model folders: what is listed, what a name finds, and what it must not."""

from pathlib import Path

import pytest
from sd2_clip.host.model_folders import CLIP_KINDS, ModelNotFoundError, list_models, resolve_model
from sd2_clip.host.standalone import StandaloneHost


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


@pytest.fixture
def models(standalone, tmp_path) -> Path:
    return tmp_path / "models"


def test_lists_files_and_folders_of_all_kinds(standalone, models):
    touch(models / "text_encoders/sd2.safetensors")
    touch(models / "checkpoints/sd/v2-1.ckpt")
    touch(models / "checkpoints/readme.txt")
    touch(models / "diffusers/sd-turbo/model_index.json")
    touch(models / "diffusers/sd-turbo/text_encoder/model.safetensors")
    found = list_models(standalone, CLIP_KINDS)
    assert found == ["sd-turbo", "sd/v2-1.ckpt", "sd2.safetensors"]
    for name in found:
        assert resolve_model(standalone, CLIP_KINDS, name).exists()


def test_a_name_in_two_kinds_can_be_chosen_in_both(standalone, models):
    first = touch(models / "text_encoders/model.safetensors")
    second = touch(models / "checkpoints/model.safetensors")
    names = list_models(standalone, CLIP_KINDS)
    assert names == ["checkpoints/model.safetensors", "model.safetensors"]
    assert [resolve_model(standalone, CLIP_KINDS, name) for name in names] == [second, first]


def test_of_two_folders_of_one_kind_the_first_counts(tmp_path):
    first = touch(tmp_path / "a/text_encoders/model.safetensors")
    touch(tmp_path / "b/text_encoders/model.safetensors")
    runs_in = StandaloneHost([tmp_path / "a", tmp_path / "b"])
    assert list_models(runs_in, CLIP_KINDS) == ["model.safetensors"]
    assert resolve_model(runs_in, CLIP_KINDS, "model.safetensors") == first


def test_both_separators_are_accepted(standalone, models):
    file = touch(models / "checkpoints/sd/v2.ckpt")
    assert resolve_model(standalone, CLIP_KINDS, "sd\\v2.ckpt") == file


@pytest.mark.parametrize(
    "name", ["../secret.ckpt", "sd/../../../secret.ckpt", "/etc/passwd", "", ".", "gone.ckpt"]
)
def test_nothing_outside_the_folders_is_found(name, standalone, models, tmp_path):
    touch(tmp_path / "secret.ckpt")
    with pytest.raises(ModelNotFoundError, match="none of the model folders"):
        resolve_model(standalone, CLIP_KINDS, name)


def test_a_link_that_leads_back_is_walked_once(standalone, models):
    touch(models / "checkpoints/sd/v2.ckpt")
    (models / "checkpoints/sd/again").symlink_to(models / "checkpoints")
    assert list_models(standalone, ["checkpoints"]) == ["sd/v2.ckpt"]
