"""The library, the command, the page's card and the loader say the same of a file."""

import json

import pytest
import sd2_clip
from layouts import CASES, TINY_CONFIG, Case, case_writer
from sd2_clip.cli import main
from sd2_clip.nodes import panel_routes
from sd2_clip.sd2 import config


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return case_writer(tmp_path_factory.mktemp("layouts"))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Everything takes the sizes of the tiny encoder for SD2's."""
    sizes = json.loads(config.CONFIG_FILE.read_text(encoding="utf-8")) | TINY_CONFIG
    file = tmp_path / "tiny_config.json"
    file.write_text(json.dumps(sizes), encoding="utf-8")
    monkeypatch.setattr(config, "CONFIG_FILE", file)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.row}-{case.name}")
def test_everyone_finds_the_same(case: Case, written, tiny, standalone, tmp_path, capsys):
    path = written(case)
    detected = sd2_clip.detect(path).as_json()

    assert main(["inspect", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == detected

    name = path.name
    (tmp_path / "models/text_encoders" / name).symlink_to(path)
    card = panel_routes.inspect({"clip_name": name})
    assert {key: card[key] for key in detected.keys() - {"path"}} == {
        key: value for key, value in detected.items() if key != "path"
    }

    loaded = sd2_clip.load_clip(path, device="cpu")
    source = loaded.cond_stage_model.source
    assert source.detection.as_json() == detected
    real = 3 if case.short else 4
    assert (detected["layers"], detected["has_projection"]) == (real, case.projection)
