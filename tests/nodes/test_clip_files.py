"""What the loader node suggests in place of a wrong or missing file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_models import sd1_shapes, write_expanded, write_hollow
from sd2_clip import host
from sd2_clip.host.model_folders import ModelNotFoundError
from sd2_clip.host.standalone import StandaloneHost
from sd2_clip.nodes import clip_files
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.state_dict_keys import text_model_shapes


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """Nine files with SD2's encoder; three that sort before them do not hold it."""
    encoders = tmp_path / "text_encoders"
    encoders.mkdir()
    for name in ("a-v1-5", "b-v1-5"):
        write_hollow(encoders / f"{name}.safetensors", sd1_shapes())
    (encoders / "c-torn.safetensors").write_bytes(b"torn")
    shapes = dict(text_model_shapes(load_config(), range(23)))
    for number in range(9):
        write_expanded(encoders / f"sd2-{number}.safetensors", shapes)
    before = host.current()
    host.use(StandaloneHost([tmp_path]))
    yield tmp_path
    host.use(before)


def test_a_missing_files_error_names_only_files_that_hold_the_encoder(models: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        clip_files.resolve_clip("gone.safetensors")
    text = str(caught.value)
    assert "sd2-0.safetensors, sd2-1.safetensors, sd2-2.safetensors" in text
    assert str(models / "text_encoders") in text
    assert "v1-5" not in text
    assert "torn" not in text


def test_the_wrong_file_itself_is_not_suggested(models: Path) -> None:
    assert "sd2-0.safetensors" not in clip_files.suggest_files("sd2-0.safetensors")


def test_few_files_are_offered_and_the_others_counted(models: Path) -> None:
    offered = clip_files.offer_files("gone.safetensors")
    assert offered["alternatives"] == [f"sd2-{number}.safetensors" for number in range(3)]
    assert offered["more_alternatives"] == 6
    for number in range(4, 9):
        (models / "text_encoders" / f"sd2-{number}.safetensors").unlink()
    offered = clip_files.offer_files("gone.safetensors")
    assert (len(offered["alternatives"]), offered["more_alternatives"]) == (4, 0)


def test_the_name_most_alike_is_offered_first(models: Path) -> None:
    shapes = dict(text_model_shapes(load_config(), range(23)))
    write_expanded(models / "text_encoders" / "v2-1_768-ema-pruned.ckpt", shapes)
    alternatives = clip_files.offer_files("v2-1_768-nonema-pruned.safetensors")["alternatives"]
    assert alternatives[0] == "v2-1_768-ema-pruned.ckpt"
    alternatives = clip_files.offer_files("my sd2 7.safetensors")["alternatives"]
    assert alternatives[0] == "sd2-7.safetensors"


def test_the_search_ends_in_time(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_files, "SEARCH_SECONDS", -1.0)
    assert clip_files.suggest_files("gone.safetensors") == []
    with pytest.raises(ModelNotFoundError, match="choose another"):
        clip_files.resolve_clip("gone.safetensors")
