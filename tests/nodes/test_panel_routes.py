"""What the page's scripts ask: tokens, files and embeddings, without any model loaded."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sd2_clip import host
from sd2_clip.host.standalone import StandaloneHost
from sd2_clip.nodes import panel_routes


@pytest.fixture(autouse=True)
def models(tmp_path: Path) -> Iterator[Path]:
    for kind in ("checkpoints", "text_encoders", "embeddings"):
        (tmp_path / kind).mkdir()
    save_file({"emb_params": torch.zeros(3, 1024)}, tmp_path / "embeddings/oil.safetensors")
    save_file({"emb_params": torch.zeros(2, 768)}, tmp_path / "embeddings/sd1.safetensors")
    before = host.current()
    host.use(StandaloneHost([tmp_path]))
    yield tmp_path
    host.use(before)


def texts(part: dict[str, Any]) -> list[str]:
    return [row["text"] for row in part["rows"]]


def test_tokens_are_told_with_weights_and_counts() -> None:
    answer = json.loads(json.dumps(panel_routes.tokenize({"text": "a (cat:1.3)"})))
    [part] = answer["parts"]
    assert texts(part) == ["a", "cat"]
    assert [row["weight"] for row in part["rows"]] == [1.0, 1.3]
    assert (part["token_count"], part["chunk_count"], part["chunk_length"]) == (2, 1, 77)
    assert part["when"] == ""


def test_embeddings_are_told_and_unknown_ones_too() -> None:
    [part] = panel_routes.tokenize({"text": "embedding:oil embedding:none"})["parts"]
    assert part["embeddings"] == [{"name": "oil", "vectors": 3}]
    assert [one["name"] for one in part["ignored"]] == ["none"]


def test_what_needs_padding_is_told_while_it_is_typed() -> None:
    answer = panel_routes.tokenize({"text": "cat " * 80, "padding": "none"})
    assert "takes 2 chunks (80 tokens)" in answer["obstacle"]
    assert panel_routes.tokenize({"text": "cat " * 75, "padding": "none"})["obstacle"] is None


def test_prompt_editing_makes_parts_with_their_times() -> None:
    answer = panel_routes.tokenize({"text": "[red:blue:0.5] fox", "syntax": "a1111"})
    assert [(part["when"], texts(part)) for part in answer["parts"]] == [
        ("0 to 0.5", ["red", "fox"]),
        ("0.5 to 1", ["blue", "fox"]),
    ]


@pytest.mark.parametrize(
    "given",
    [{}, {"text": 5}, {"text": "x", "syntax": "?"}, {"text": "x", "steps": "many"},
     {"text": "x" * 100_001}],
    ids=["no text", "number", "unknown syntax", "steps no number", "too long"],
)  # fmt: skip
def test_questions_without_sense_get_an_error(given: dict[str, Any]) -> None:
    assert set(panel_routes.tokenize(given)) == {"error"}


@pytest.mark.parametrize("steps", [-1, 10_001, 10**12])
@pytest.mark.parametrize("syntax", ["comfy", "a1111"])
def test_steps_outside_of_the_nodes_range_are_refused(syntax: str, steps: int) -> None:
    answer = panel_routes.tokenize({"text": "[a|b]", "syntax": syntax, "steps": steps})
    assert answer == {"error": f"steps {steps} is not between 0 and 10000."}


def test_good_file_is_told_by_its_header(models: Path) -> None:
    from browser_models import write_expanded
    from sd2_clip.sd2.config import load_config
    from sd2_clip.sd2.detection.state_dict_keys import text_model_shapes

    shapes = dict(text_model_shapes(load_config(), range(23)))
    path = models / "text_encoders/good.safetensors"
    write_expanded(path, shapes)
    found = panel_routes.inspect({"clip_name": "good.safetensors"})
    assert (found["layers"], found["dtype"], found["clip_name"]) == (23, "F16", "good.safetensors")
    assert found["bytes"] == path.stat().st_size
    assert str(models) not in json.dumps(found)


def test_wrong_file_is_named_and_good_ones_offered(models: Path) -> None:
    from browser_models import sd1_shapes, write_expanded, write_hollow
    from sd2_clip.sd2.config import load_config
    from sd2_clip.sd2.detection.state_dict_keys import text_model_shapes

    write_hollow(models / "checkpoints/wrong.safetensors", sd1_shapes())
    shapes = dict(text_model_shapes(load_config(), range(23)))
    write_expanded(models / "text_encoders/good.safetensors", shapes)
    found = panel_routes.inspect({"clip_name": "wrong.safetensors"})
    assert found["error"].startswith("wrong.safetensors: no SD2 text encoder")
    assert "Stable Diffusion 1.x" in found["error"]
    assert found["alternatives"] == ["good.safetensors"]


def test_a_missing_files_summary_leaves_out_the_names_that_are_offered(models: Path) -> None:
    from browser_models import write_expanded
    from sd2_clip.sd2.config import load_config
    from sd2_clip.sd2.detection.state_dict_keys import text_model_shapes

    shapes = dict(text_model_shapes(load_config(), range(23)))
    write_expanded(models / "text_encoders/good.safetensors", shapes)
    found = panel_routes.inspect({"clip_name": "gone.safetensors"})
    assert "good.safetensors" in found["error"]
    assert "good.safetensors" not in found["summary"]
    assert found["summary"].endswith("Put the file there, or choose another.")
    assert (found["alternatives"], found["more_alternatives"]) == (["good.safetensors"], 0)


def test_replaced_file_is_looked_at_again(models: Path) -> None:
    from browser_models import sd1_shapes, write_hollow

    path = models / "checkpoints/a.safetensors"
    path.write_bytes(b"nothing")
    assert "Stable Diffusion" not in panel_routes.inspect({"clip_name": "a.safetensors"})["error"]
    write_hollow(path, sd1_shapes())
    assert "Stable Diffusion 1.x" in panel_routes.inspect({"clip_name": "a.safetensors"})["error"]


@pytest.mark.parametrize("name", ["gone.safetensors", "../secret.safetensors", "", None, 5])
def test_only_files_of_the_loader_can_be_asked_about(models: Path, name: Any) -> None:
    (models.parent / "secret.safetensors").write_bytes(b"secret")
    assert "error" in panel_routes.inspect({"clip_name": name})


def test_embeddings_are_listed_with_their_sizes(models: Path) -> None:
    torch.save({"x": 1}, models / "embeddings/old.pt")
    assert panel_routes.embeddings({})["embeddings"] == [
        {"name": "oil", "vectors": 3, "width": 1024},
        {"name": "old", "vectors": None, "width": None},
        {"name": "sd1", "vectors": 2, "width": 768},
    ]


def test_saved_conditioning_is_no_embedding(models: Path) -> None:
    folder = models / "embeddings"
    save_file({"conditioning": torch.zeros(1, 77, 1024)}, folder / "core.safetensors")
    tensors = {"0.cond": torch.zeros(77, 1024)}
    save_file(tensors, folder / "ours.safetensors", {"sd2_clip": RECORD})
    names = [one["name"] for one in panel_routes.embeddings({})["embeddings"]]
    assert names == ["oil", "sd1"]
    for text, syntax in (("embedding:core", "comfy"), ("a core", "a1111"), ("ours", "a1111")):
        [part] = panel_routes.tokenize({"text": text, "syntax": syntax})["parts"]
        assert part["embeddings"] == []
        [ignored] = part["ignored"]
        assert "Use Load SD2 Conditioning" in ignored["reason"]


def test_the_meter_leaves_comments_out_and_counts_the_longest_choice() -> None:
    text = "cat // no dog\n/* multi\nline */ sitting in a {red|emerald green} chair"
    answer = panel_routes.tokenize({"text": text})
    assert texts(answer["parts"][0]) == ["cat", "sitting", "in", "a", "emerald", "green", "chair"]
    assert answer["has_choices"] is True
    for plain in ("a cat", r"a \{cat\|dog\}", "{cat} // {a|b}"):
        assert panel_routes.tokenize({"text": plain})["has_choices"] is False


@pytest.mark.parametrize("syntax", ["comfy", "a1111"])
def test_the_longest_choice_has_the_most_tokens_not_the_most_letters(syntax: str) -> None:
    answer = panel_routes.tokenize({"text": "{(internationally:1.25)|a b c}", "syntax": syntax})
    assert texts(answer["parts"][0]) == ["a", "b", "c"]


def test_choices_of_a_very_long_text_are_counted_in_a_moment() -> None:
    started = time.process_time()
    nested = "{a|" * 900 + "b" + "}" * 900
    for text in ("{" + "a cat|" * 15_000 + "}", nested):
        assert panel_routes.tokenize({"text": text})["has_choices"] is True
    assert time.process_time() - started < 5
    assert "1,000 deep" in panel_routes.tokenize({"text": "{" * 1001})["error"]


def test_a_text_in_a1111s_syntax_is_hinted_at_on_the_node() -> None:
    [hint] = panel_routes.tokenize({"text": "cat BREAK dog"})["warnings"]
    assert "set syntax to a1111" in hint


RECORD = json.dumps({"format": "sd2_clip.conditioning/1", "entries": []})
