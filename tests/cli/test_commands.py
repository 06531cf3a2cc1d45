"""The commands, each in a process of its own, as a user types them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import layouts
import pytest
import torch
from browser_models import write_expanded
from model_shapes import SD2_CONFIG
from safetensors import safe_open
from safetensors.torch import load_file
from sd2_clip.clip.conditioning_file import load_conditioning
from sd2_clip.dataset import EncodedCaptions
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.state_dict_keys import text_model_shapes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "tests/workflows/First steps.json"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where commands run: the plugin as ``sd2_clip``, and a 23-layer encoder of real size."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    encoder = layouts.diffusers(layouts.canonical_encoder(SD2_CONFIG, dtype=torch.float16))
    (folder / "models").mkdir()
    layouts.save_safetensors(encoder, folder / "models/sd2.safetensors")
    return folder


def run(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "sd2_clip", *map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_workflow(folder, *arguments, name="sd2.safetensors"):
    chosen = ("--models", "models", "--set", f"1.clip_name={name}")
    return run(folder, "run", *arguments, *chosen)


@pytest.mark.full_size
@pytest.mark.parametrize(
    "workflow", [WORKFLOW, ROOT / "example_workflows/First steps.json"], ids=["api", "editor"]
)
def test_run_leaves_conditioning_on_disk(workflow, folder, tmp_path):
    done = run_workflow(folder, workflow, "--output", tmp_path)
    assert done.returncode == 0
    [warning] = done.stderr.splitlines()  # the file is a diffusers encoder
    assert "the file has no layer 24 and no text projection" in warning
    (path,) = tmp_path.rglob("*.safetensors")
    ((cond, options),) = load_conditioning(path)
    assert cond.shape == (1, 77, 1024)
    assert cond.isfinite().all()
    assert json.loads(options["sd2_clip"])["layer"].startswith("layer 23 of 24")
    assert f"saved {path}: [1, 77, 1024]" in done.stdout
    assert "8 tokens, 1 chunk of 77" in done.stdout


@pytest.mark.full_size
def test_a_saved_conditioning_runs_again_as_a_workflow(folder, tmp_path):
    run_workflow(folder, WORKFLOW, "--output", tmp_path / "first")
    (first,) = tmp_path.rglob("*.safetensors")
    done = run(folder, "run", first, "--models", "models", "--output", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    second = next((tmp_path / "second").rglob("*.safetensors"))
    torch.testing.assert_close(load_conditioning(second)[0][0], load_conditioning(first)[0][0])


@pytest.mark.full_size
def test_convert_writes_just_the_text_encoder(folder, tmp_path):
    out = tmp_path / "encoder.safetensors"
    (folder / "probe").touch()
    assert run(folder, "convert", "models/sd2.safetensors", out).returncode == 0
    expected = load_file(folder / "models/sd2.safetensors")
    torch.testing.assert_close(load_file(out), expected)
    assert out.stat().st_mode & 0o077 == (folder / "probe").stat().st_mode & 0o077
    again = run(folder, "convert", "models/sd2.safetensors", out)
    assert again.returncode == 1
    assert "already exists" in again.stderr


@pytest.mark.full_size
def test_convert_writes_the_folder_of_a_pipeline(folder, tmp_path):
    command = ("convert", "models/sd2.safetensors", tmp_path / "pipe", "--layout", "diffusers")
    done = run(folder, *command, "--variant", "fp16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{tmp_path / 'pipe'}: F16, 680.8 MB"]
    weights = tmp_path / "pipe/text_encoder/model.fp16.safetensors"
    # The size of the file that SD-Turbo and Marigold publish: the same tensors, header and order.
    assert weights.stat().st_size == 680_820_392
    wrong = run(folder, *command[:2], tmp_path / "x.safetensors", "--layout", "openclip")
    assert wrong.returncode == 1
    assert "needs all 24 layers, and this file has 23" in wrong.stderr
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.full_size
def test_inspect_says_what_a_file_holds(folder):
    done = run(folder, "inspect", "models/sd2.safetensors")
    assert done.returncode == 0
    assert "23 of 24" in done.stdout
    found = json.loads(run(folder, "inspect", "models/sd2.safetensors", "--json").stdout)
    assert (found["layers"], found["dtype"], found["has_projection"]) == (23, "F16", False)


@pytest.mark.full_size
def test_json_results_are_json(folder, tmp_path):
    done = run_workflow(folder, WORKFLOW, "--output", tmp_path, "--json")
    told = json.loads(done.stdout)
    assert set(told["outputs"]) == {"1", "3", "4"}
    assert told["errors"] == []


@pytest.mark.full_size
def test_json_of_a_workflow_that_failed_has_what_did_run(folder, tmp_path):
    options = ("--output", tmp_path, "--json", "--set", "2.stop_at_clip_layer=3")
    done = run_workflow(folder, WORKFLOW, *options)
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert set(told["outputs"]) == {"1", "3"}
    assert "bigger than max" in " ".join(told["errors"])


def broken(changes):
    """The first workflow with inputs or classes of nodes replaced."""
    workflow = json.loads(WORKFLOW.read_text())
    for key, value in changes.items():
        node, _, name = key.partition(".")
        if name == "class_type":
            workflow[node]["class_type"] = value
        else:
            workflow[node]["inputs"][name] = value
    return workflow


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"2.clip": ["9", 0]}, "node 9 is not in the workflow"),
        ({"2.clip": ["1", 7]}, "output 7"),
        ({"2.clip": ["1", 1]}, "STRING"),
        ({"2.stop_at_clip_layer": 3}, "bigger than max"),
        ({"2.class_type": "KSampler"}, "KSampler"),
        ({"2.class_type": "EncodeSD2Txt"}, "did you mean 'EncodeSD2Text'?"),
        ({"4.conditioning": ["4", 0]}, "node 4"),
        ({"1.clip_name": "../../etc/passwd"}, "none of the model folders"),
        ({"1.clip_name": "gone.ckpt"}, "gone.ckpt"),
    ],
    ids=str,
)
def test_a_broken_workflow_is_named_by_node(changes, message, tmp_path):
    done = broken_at(tmp_path, changes)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_workflow_of_comfyui_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    done = run(tmp_path, "run", ROOT / "example_workflows/Text to image with SD 2.1.json")
    assert done.returncode == 1
    [sentence] = done.stderr.splitlines()
    assert "this workflow needs ComfyUI: " in sentence
    assert "KSampler" in sentence
    assert "LoadSD2CLIP" not in sentence


def broken_at(tmp_path, changes, *options, is_encoder=False):
    """What ``run`` makes of ``broken(changes)`` beside a file, which may be SD2's encoder."""
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/sd2.safetensors").write_bytes(b"nothing")
    if is_encoder:
        shapes = dict(text_model_shapes(load_config(), range(23)))
        write_expanded(tmp_path / "models/sd2.safetensors", shapes)
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(broken({"1.clip_name": "sd2.safetensors"} | changes)))
    return run(tmp_path, "run", workflow, "--models", "models", "--output", "out", *options)


def test_json_of_a_workflow_that_failed_has_its_errors(tmp_path):
    done = broken_at(tmp_path, {"2.stop_at_clip_layer": 3}, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert set(told) == {"outputs", "errors", "seconds"}
    assert told["outputs"] == {}
    assert any("bigger than max" in error for error in told["errors"])
    assert all(error.splitlines()[0] in done.stderr for error in told["errors"])


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"1.clip_name": "gone.ckpt"}, '--set "1.clip_name=VALUE"'),
        ({"2.syntax": "latin"}, '--set "2.syntax=VALUE"'),
    ],
    ids=["file", "choice"],
)
def test_a_value_that_is_no_choice_comes_with_how_to_change_it(changes, hint, tmp_path):
    done = broken_at(tmp_path, changes, is_encoder=True)
    assert done.returncode == 1
    assert done.stderr.count(hint) == 1


FILES = {
    "empty.safetensors": b"",
    "page.safetensors": b"<!DOCTYPE html><html>not found</html>",
    "words.ckpt": b"these are words, not a model",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["inspect", "convert", "run"])
def test_a_file_that_is_no_model_is_named(name, command, tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / name).write_bytes(FILES[name])
    if command == "run":
        done = run_workflow(tmp_path, WORKFLOW, name=name)
    else:
        out = ["out.safetensors"] if command == "convert" else []
        done = run(tmp_path, command, f"models/{name}", *out)
    assert done.returncode == 1
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.safetensors").exists()


def test_a_console_without_the_letters_of_a_name_gets_their_codes(tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    write_expanded(tmp_path / "猫.safetensors", text_model_shapes(load_config(), range(23)))
    done = run(tmp_path, "inspect", "猫.safetensors", PYTHONIOENCODING="cp1252")
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u732b.safetensors" in done.stdout


@pytest.mark.parametrize("command", ["run", "convert", "demo"])
def test_what_cannot_be_written_is_said_before_the_work(command, tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    (tmp_path / "file").write_text("in the way")
    write_expanded(tmp_path / "good.ckpt", dict(text_model_shapes(load_config(), range(23))))
    arguments = {
        "run": [WORKFLOW, "--output", "file/out"],
        "convert": ["good.ckpt", "file/out.safetensors"],
        "demo": ["--output", "file/out"],
    }
    done = run(tmp_path, command, *arguments[command])
    assert done.returncode == 1
    assert "cannot be written to" in done.stderr
    assert "Choose another folder" in done.stderr


def test_demo_of_a_missing_checkpoint_names_it(tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    done = run(tmp_path, "demo", "--checkpoint", "/gone.safetensors")
    assert done.returncode == 1
    assert done.stderr.strip().endswith("gone.safetensors: no such file.")


def test_a_wrong_command_line_has_a_status_of_its_own(tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    assert run(tmp_path, "fly").returncode == 2
    assert run(tmp_path, "--help").returncode == 0


@pytest.mark.full_size
def test_demo_labels_its_random_weights_everywhere(tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    done = run(tmp_path, "demo")
    try:
        assert done.returncode == 0, done.stderr
        assert "RANDOM WEIGHTS" in done.stdout
        (encoder,) = tmp_path.rglob("*RANDOM-WEIGHTS*.safetensors")
        with safe_open(encoder, framework="pt") as file:
            assert "random_weights" in " ".join(file.metadata())
        assert "[1, 77, 1024]" in done.stdout
        assert "done in" in done.stdout
        verified = run(tmp_path, "verify", encoder)
        assert verified.returncode == 1
        assert verified.stdout.startswith("Verdict:      something else")
        assert "its weights are random" in verified.stdout
    finally:
        shutil.rmtree(tmp_path / "demo", ignore_errors=True)


CAPTIONS = 'file,caption\n1.png,a cat\n2.png,"a (red:1.2) dog, sleeping"\n3.png,a cat\n'


@pytest.mark.full_size
def test_demo_ends_with_commands_that_run(tmp_path, monkeypatch):
    from sd2_clip.cli import demo_command

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_command, "find_spec", lambda name: None)
    checkpoint = tmp_path / "demo/models/text_encoders/sd2.safetensors"
    lines = [line.strip() for line in demo_command._what_next(checkpoint).splitlines()]
    typed = [line for line in lines if " -m " in line or "sd2-clip " in line]
    inspect, install, edit, again = typed
    assert inspect.endswith(f"inspect {checkpoint.relative_to(tmp_path)}")
    assert install.endswith("-m pip install aiohttp comfyui-frontend-package")
    assert edit.endswith(f"edit --models {checkpoint.parent.relative_to(tmp_path)}")
    assert again.endswith(f"run WORKFLOW.json --models {checkpoint.parent.relative_to(tmp_path)}")
    assert not set("&'\"$`") & set("".join(typed))
    monkeypatch.setattr(demo_command, "find_spec", lambda name: object())
    assert "pip install" not in demo_command._what_next(checkpoint)


def test_a_path_in_the_home_folder_is_found(tmp_path):
    """Not every shell expands ``~``, and none after ``=`` in the middle of a word."""
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    shapes = dict(text_model_shapes(load_config(), range(23)))
    write_expanded(tmp_path / "good.safetensors", shapes)
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    done = run(tmp_path, "inspect", "~/good.safetensors", **home)
    assert done.returncode == 0, done.stderr
    assert "23 of 24" in done.stdout


def test_encode_leaves_every_captions_embedding(folder, tmp_path):
    (tmp_path / "captions.csv").write_text(CAPTIONS)
    command = ("encode", tmp_path / "captions.csv", tmp_path / "out", "--key", "file", "--pooled",
               "--checkpoint", "models/sd2.safetensors", "--device", "cpu")  # fmt: skip
    done = run(folder, *command)
    assert done.returncode == 0, done.stderr
    assert "captions: 3 in 1 files" in done.stdout
    dataset = EncodedCaptions(tmp_path / "out")
    assert dataset.keys == ["1.png", "2.png", "3.png"]
    assert dataset[1]["caption_latents"].shape == (77, 1024)
    assert dataset[1]["caption_pooled"].shape == (1024,)
    assert torch.equal(dataset[0]["caption_latents"], dataset[2]["caption_latents"])
    again = run(folder, *command, "--json")
    assert json.loads(again.stdout)["encoded"] == 0
    other = run(folder, *command, "--layer", "hidden", "--layer-idx", "-5")
    assert other.returncode == 1
    assert "layer: 23 of 24, final layer norm applied, now 20 of 24" in other.stderr
    command = ("encode", tmp_path / "captions.csv", tmp_path / "distinct", "--dedup", "global",
               "--checkpoint", "models/sd2.safetensors", "--device", "cpu")  # fmt: skip
    done = run(folder, *command)
    assert "captions: 3, distinct: 2 in 1 files" in done.stdout, done.stderr


ENCODE_ERRORS = {
    "no captions": (("gone.txt", "out"), "gone.txt does not exist"),
    "no column": (("captions.csv", "out", "--column", "text"), "Columns: file, caption"),
    "no checkpoint": (("captions.csv", "out"), "gone.safetensors"),
    "empty": (("empty.txt", "out"), "contains no captions"),
    "itself": ((".", "out"), "one inside the other"),
    "its source": (("captions.csv", "."), "contains other files"),
    "part": (
        ("captions.csv", "out", "--part", "3/2"),
        "Invalid part 3/2: the first number must be between 1 and 2",
    ),
    "no part": (("captions.csv", "out", "--part", "all"), "expected two numbers, such as 1/4"),
}


@pytest.mark.parametrize("case", ENCODE_ERRORS)
def test_encode_says_what_is_wrong(case, tmp_path):
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    (tmp_path / "captions.csv").write_text(CAPTIONS)
    (tmp_path / "empty.txt").touch()
    arguments, message = ENCODE_ERRORS[case]
    done = run(tmp_path, "encode", *arguments, "--checkpoint", "gone.safetensors")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/*"))
