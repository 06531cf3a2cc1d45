"""``sd2-clip compare``, in this process and with a tiny encoder."""

import shutil
import sys
from functools import partial

import layouts
import pytest
import tiny
import torch
from sd2_clip import cli
from sd2_clip.clip import load_clip

FILE = str(tiny.GOLDEN / "tiny_text_encoder.safetensors")


@pytest.fixture(autouse=True)
def small(standalone, monkeypatch):
    loaded = []

    def load(file, **options):
        loaded.append((str(file), options["dtype"]))
        return load_small(file, **options)

    load_small = partial(load_clip.load_clip, model_options=tiny.MODEL_OPTIONS)
    monkeypatch.setattr(load_clip, "load_clip", load)
    return loaded


@pytest.fixture
def run(capsys):
    def compare(*arguments):
        status = cli.main(["compare", *map(str, arguments), "--device", "cpu"])
        return status, capsys.readouterr()

    return compare


def row(table, token):
    [line] = [line for line in table.splitlines() if line.endswith(f"  {token}")]
    return line.split()


def test_two_prompts_are_compared_with_one_checkpoint(run, small):
    status, said = run("a red cat", "a (red:1.3) cat", "--checkpoint", FILE)
    assert status == 0
    assert row(said.out, "red")[:4] == ["2", "2", "1", "1.3"]
    assert row(said.out, "cat")[4:6] == ["0", "1.00000"]
    assert small == [(FILE, None)]


def test_textual_inversions_are_found_in_their_folder(run, tmp_path):
    layouts.save_safetensors({"emb_params": torch.ones(2, 32)}, tmp_path / "oil.safetensors")
    texts = "a cat", "a cat embedding:oil"
    status, said = run(*texts, "--checkpoint", FILE, "--embeddings", tmp_path)
    assert status == 0
    assert "embedding:oil[2/2]  (only in B)" in said.out


def test_one_option_is_for_both_and_two_are_for_each(run):
    text = "a (red:1.5) cat"
    same = run(text, text, "--checkpoint", FILE, "--weight-interpretation", "A1111")[1].out
    assert "The conditionings are equal." in same
    differ = run(text, text, "--checkpoint", FILE, "--weight-interpretation", "comfy, A1111")[1].out
    assert "The conditionings are equal." not in differ
    layers = run(text, text, "--checkpoint", FILE, "--stop-at-clip-layer=-1,-2")[1].out
    assert float(row(layers, "a")[4]) > 0


def test_two_files_are_compared_with_one_text(run, tmp_path, small):
    other = str(shutil.copy(FILE, tmp_path / "other.safetensors"))
    status, said = run(FILE, other, "--text", "a cat")
    assert status == 0
    assert "The conditionings are equal." in said.out
    assert small == [(FILE, None), (other, None)]
    _, said = run(FILE, other, "--text", "a cat", "--dtype", "fp32,bf16")
    assert "The conditionings are equal." not in said.out
    assert float(row(said.out, "all compared rows")[0]) < 0.05


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--weight-interpretation", "comfi"), "weight_interpretation 'comfi' is unknown"),
        (("--steps", "x"), "steps 'x' is not a whole number"),
        (("--syntax", "comfy,a1111,comfy"), "--syntax has 3 values"),
        (("--dtype", "fp64"), "fp64"),
        (("--plot", "x.xcf"), "must end in .png"),
    ],
)
def test_what_is_wrong_is_named(arguments, expected, run):
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    status, said = run("a", "b", "--checkpoint", FILE, *arguments)
    assert status == 1
    assert expected in said.err


@pytest.mark.parametrize("arguments", [(), ("--text", "x", "--checkpoint", FILE)])
def test_it_is_either_a_checkpoint_or_a_text(arguments, run, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("a", "b", *arguments)
    assert stopped.value.code == 2


def test_a_picture_is_drawn(run, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "x.png"
    texts = "a $red$ 猫", "[a $blue$ cat:dog:0.5]"
    status, said = run(*texts, "--checkpoint", FILE, "--plot", picture)
    assert status == 0, said.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    texts = "[a:b:0.5]", "[a:c:0.5]"
    assert run(*texts, "--checkpoint", FILE, "--syntax", "a1111", "--plot", picture)[0] == 0


def test_without_matplotlib_a_picture_is_an_error_in_one_sentence(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    status, said = run("a", "b", "--checkpoint", FILE, "--plot", tmp_path / "x.png")
    assert status == 1
    assert said.out == ""
    assert said.err == (
        "sd2-clip compare: Drawing needs matplotlib. Install it: pip install matplotlib, or "
        'pip install ".[plot]" in SD2 CLIP\'s folder.\n'
    )
