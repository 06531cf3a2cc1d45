"""The example workflows: complete, the same in both forms, and those of our nodes alone run."""

import json
import re
import shlex
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import layouts
import pytest
import torch
from node_descriptions import EXAMPLE_FILES, core_node_classes
from sd2_clip import NODE_CLASS_MAPPINGS, cli
from sd2_clip.clip import load_clip
from sd2_clip.headless.editor_format.to_prompt import workflow_to_prompt
from sd2_clip.headless.execution.executor import Executor
from sd2_clip.headless.node_class import NodeClasses
from sd2_clip.headless.validation.validate import validate
from sd2_clip.headless.workflow import read_prompt
from sd2_clip.nodes import load

ROOT = Path(__file__).parent.parent
EXAMPLES = {path.stem: path for path in sorted((ROOT / "example_workflows").glob("*.json"))}
PROMPTS = ROOT / "tests" / "workflows"
LARGEST_PICTURE = 100_000
DOWNLOADABLE = "v2-1_768-ema-pruned.safetensors"
CODE_BLOCK = re.compile(r"```(?:python)?\n(.*?)```", re.DOTALL)

each_example = pytest.mark.parametrize("name", EXAMPLES)


@pytest.fixture
def classes(standalone, tmp_path):
    """Our nodes, core's declarations, and the files that the examples name."""
    for name in EXAMPLE_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return {**core_node_classes(), **NODE_CLASS_MAPPINGS}


@pytest.fixture(autouse=True)
def files_are_not_read(monkeypatch):
    """The files that the examples name are empty or small here."""
    monkeypatch.setattr(load, "inspect_file", lambda path: {})


def workflow(name):
    return json.loads(EXAMPLES[name].read_text(encoding="utf-8"))


def prompt(name):
    return json.loads((PROMPTS / f"{name}.json").read_text(encoding="utf-8"))


def notes(name):
    return [n["widgets_values"][0] for n in workflow(name)["nodes"] if n["type"] == "MarkdownNote"]


def meaning(prompt, classes):
    """Every node's class and all its inputs, those left out at their defaults."""
    found = {}
    for node_id, node in prompt.items():
        declared = classes[node["class_type"]].INPUT_TYPES().get("optional", {})
        defaults = {name: options[1]["default"] for name, options in declared.items()}
        found[node_id] = (node["class_type"], defaults | node["inputs"])
    return found


@each_example
def test_both_forms_mean_the_same(name, classes):
    """Those in API format were made by ComfyUI's frontend, so this compares our converter too."""
    converted, notes = workflow_to_prompt(workflow(name), NodeClasses(classes))
    assert meaning(converted, classes) == meaning(prompt(name), classes)
    assert notes == ()


@each_example
def test_every_input_is_valid(name, classes):
    assert validate(read_prompt(prompt(name), classes)).lines() == []


@each_example
def test_no_saved_value_is_without_a_widget(name, classes):
    """An input that is added later would take it. New inputs may still lack theirs, at the end."""
    for node in workflow(name)["nodes"]:
        if node["type"] in NODE_CLASS_MAPPINGS:
            groups = NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()
            declared = {**groups["required"], **groups.get("optional", {})}
            sockets = {entry["name"] for entry in node["inputs"]}
            assert len(node["widgets_values"]) <= len(set(declared) - sockets)


@each_example
def test_template_has_a_picture_of_its_name(name):
    picture = EXAMPLES[name].with_suffix(".jpg")
    assert picture.read_bytes().startswith(b"\xff\xd8\xff")
    assert picture.stat().st_size < LARGEST_PICTURE


@each_example
def test_loaders_of_a_file_that_can_be_downloaded_say_where(name):
    """ComfyUI offers the download; the digest is that of README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for node in workflow(name)["nodes"]:
        values = node.get("widgets_values") or [None]
        if values[0] != DOWNLOADABLE:
            assert "models" not in node["properties"]
            continue
        [model] = node["properties"]["models"]
        assert (model["name"], model["directory"]) == (DOWNLOADABLE, "checkpoints")
        assert model["url"].endswith(f"/resolve/main/{DOWNLOADABLE}")
        assert (model["hash_type"], model["hash"] in readme) == ("SHA256", True)


@each_example
def test_notes_have_no_words_in_code_style(name):
    """On a coloured note, Nodes 2.0 writes them in blue on blue. Blocks of code are legible."""
    assert [note for note in notes(name) if "`" in CODE_BLOCK.sub("", note)] == []


@each_example
def test_titles_are_in_words(name):
    """The frontend shows the file's name."""
    assert name[0].isupper()
    assert "_" not in name


def test_there_is_nothing_else_among_the_examples():
    """ComfyUI would list it as a template."""
    expected = {f"{name}.{suffix}" for name in EXAMPLES for suffix in ("json", "jpg")}
    assert {path.name for path in (ROOT / "example_workflows").iterdir()} == expected


def is_ours_alone(name):
    return all(node["class_type"] in NODE_CLASS_MAPPINGS for node in prompt(name).values())


@pytest.fixture
def small_encoder(standalone, tmp_path, monkeypatch):
    """A tiny encoder as the checkpoint that the examples name."""
    checkpoint = tmp_path / EXAMPLE_FILES[0]
    layouts.save_safetensors(layouts.canonical_encoder(), checkpoint)
    small = partial(load_clip.load_clip, model_options={"clip_h_model_config": layouts.TINY_CONFIG})
    monkeypatch.setattr(load_clip, "load_clip", small)
    return checkpoint


@pytest.mark.parametrize("name", [name for name in EXAMPLES if is_ours_alone(name)])
@pytest.mark.usefixtures("small_encoder")
def test_runs_on_a_small_encoder(name, standalone):
    validation = validate(read_prompt(prompt(name), NODE_CLASS_MAPPINGS))
    assert validation.lines() == []
    execution = Executor().execute(validation)
    assert execution.error is None, str(execution.error)
    nodes = prompt(name)
    saves = [n for n in nodes.values() if n["class_type"] == "SaveSD2Conditioning"]
    lists = [nodes[save["inputs"]["conditioning"][0]]["inputs"].get("texts", "") for save in saves]
    expected = sum(max(len(texts.splitlines()), 1) for texts in lists)
    assert len(list(standalone.output_directory().rglob("*.safetensors"))) == expected > 0


def test_second_half_of_the_saved_conditioning_loads_what_the_first_saves():
    saved = {
        f"{node['inputs']['filename_prefix']}_00001_.safetensors [output]"
        for node in prompt("Saved conditioning 1 - encode").values()
        if node["class_type"] == "SaveSD2Conditioning"
    }
    loaded = {
        node["inputs"]["conditioning_name"]
        for node in prompt("Saved conditioning 2 - sample").values()
        if node["class_type"] == "LoadSD2Conditioning"
    }
    assert loaded == saved


def test_note_of_the_fixed_prompt_is_right(small_encoder, tmp_path, monkeypatch):
    """Its code reads what is saved; its command writes the same file, as ComfyUI-Marigold's is."""
    name = "Fixed prompt for Marigold"
    monkeypatch.chdir(tmp_path)
    execution = Executor().execute(validate(read_prompt(prompt(name), NODE_CLASS_MAPPINGS)))
    assert execution.error is None, str(execution.error)
    [code, command] = CODE_BLOCK.findall(notes(name)[0])
    names = {"pipe": SimpleNamespace(dtype=torch.float16)}
    exec(compile(code, name, "exec"), names)
    saved = torch.load("empty_text_embed.pt", weights_only=True)
    assert (saved.shape[:2], saved.dtype) == ((1, 2), torch.float32)
    assert names["pipe"].empty_text_embedding.dtype == torch.float16
    Path("empty_text_embed.pt").unlink()
    shutil.copy(small_encoder, tmp_path)
    assert cli.main(shlex.split(command)[1:]) == 0
    assert torch.equal(torch.load("empty_text_embed.pt", weights_only=True), saved)
