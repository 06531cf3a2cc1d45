"""sd2-clip prompt: the tensors of a prompt, and the files that other programs expect."""

import json
from functools import partial

import layouts
import pytest
import torch
from safetensors import safe_open
from sd2_clip import cli
from sd2_clip.clip import load_clip
from sd2_clip.clip.apply_lora import apply_lora
from sd2_clip.clip.conditioning_file import ConditioningError
from sd2_clip.clip.encode_text import encode_text
from sd2_clip.clip.fixed_prompts import PRESETS
from sd2_clip.nodes.conditioning import LoadSD2Conditioning

EMPTY = (1, 2, 32)
CHUNK = (1, 77, 32)

EXPECTED = {
    "marigold": ({"empty_text_embed": EMPTY}, torch.float32),
    "ccsr": ({"empty_text_embed": EMPTY}, torch.float32),
    "e2e-ft": ({"empty_text_embed": EMPTY}, torch.float32),
    "stablenormal": ({"empty_text_embedding": EMPTY, "prompt_embeds": CHUNK}, torch.float32),
    "pager": ({"empty_prompt_embedding": CHUNK}, torch.float16),
    "lotus": ({"prompt_embeds": EMPTY}, torch.float16),
    "chord": (
        dict.fromkeys(
            ("basecolor", "normal", "roughness", "metallic", "irradiance", "rou_met"), CHUNK
        ),
        torch.float16,
    ),
    "diffbir": ({"prompt_embeds": CHUNK, "negative_prompt_embeds": CHUNK}, torch.float32),
    "invsr": ({"prompt_embeds": CHUNK, "negative_prompt_embeds": CHUNK}, torch.float16),
    "seesr": ({"prompt_embeds": CHUNK, "negative_prompt_embeds": CHUNK}, torch.float16),
}


@pytest.fixture
def folder(standalone, tmp_path, monkeypatch):
    """A folder with a tiny encoder as ``sd2.safetensors``, where commands run."""
    sizes = {"clip_h_model_config": layouts.TINY_CONFIG}
    small = partial(load_clip.load_clip, model_options=sizes)
    monkeypatch.setattr(load_clip, "load_clip", small)
    monkeypatch.chdir(tmp_path)
    encoder = layouts.diffusers(layouts.canonical_encoder())
    layouts.save_safetensors(encoder, tmp_path / "sd2.safetensors")
    return tmp_path


@pytest.fixture
def clip(folder):
    return load_clip.load_clip(folder / "sd2.safetensors", device="cpu")


def prompt(*words):
    common = ["--checkpoint", "sd2.safetensors", "--device", "cpu"]
    return cli.main(["prompt", *map(str, words), *common])


def read(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def texts(preset):
    return {one.key: one.text for one in PRESETS[preset].prompts}


def test_every_preset_is_expected_here():
    assert set(EXPECTED) == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_keys_shapes_and_dtype_of_its_program(preset, folder, clip):
    assert prompt("--for", preset, "--out", "out.safetensors") == 0
    tensors, metadata = read("out.safetensors")
    shapes, dtype = EXPECTED[preset]
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    for key, tensor in tensors.items():
        own = clip.encode(texts(preset)[key])[:, : tensor.shape[1]].to(dtype)
        torch.testing.assert_close(tensor, own)
    assert metadata["format"] == "pt"
    records = json.loads(metadata["sd2_clip.prompts"])
    assert {key: record["text"] for key, record in records.items()} == texts(preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_torch_file_is_loaded_as_its_program_does(preset, folder):
    assert prompt("--for", preset, "--out", "out.pt") == 0
    assert prompt("--for", preset, "--out", "out.safetensors") == 0
    loaded = torch.load("out.pt", weights_only=True)
    tensors, _ = read("out.safetensors")
    if preset == "marigold":  # as its nodes.py: torch.load gives the tensor
        loaded = {"empty_text_embed": loaded}
    assert list(loaded) == list(texts(preset))
    assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_the_file_of_pager_says_what_its_pack_writes(dtype, folder):
    assert prompt("--for", "pager", "--dtype", dtype, "--out", "out.safetensors") == 0
    tensors, metadata = read("out.safetensors")
    assert metadata["conditioning_mode"] == "pager_max_length"
    assert metadata["save_dtype"] == dtype
    assert tensors["empty_prompt_embedding"].dtype == load_clip.parse_dtype(dtype)


@pytest.mark.parametrize("preset", PRESETS)
def test_fixed_prompts_hold_no_syntax(preset):
    assert not any(set("()[]{}<>\\!:|") & set(one.text) for one in PRESETS[preset].prompts)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_prompt_of_ones_own_with_a_key(suffix, folder, clip):
    out = f"out.{suffix}"
    options = ("--weight-interpretation", "A1111", "--stop-at-clip-layer", "-3")
    assert prompt("a (cat:1.5)", "--key", "mine", "--out", out, "--dtype", "bf16", *options) == 0
    found = torch.load(out, weights_only=True) if suffix == "pt" else read(out)[0]
    expected = clip.encode("a (cat:1.5)", weight_interpretation="A1111", stop_at_clip_layer=-3)
    assert list(found) == ["mine"]
    assert torch.equal(found["mine"], expected.bfloat16())


def test_without_a_key_a_torch_file_is_the_tensor(folder, clip, capsys):
    assert prompt("", "--padding", "none", "--out", "out.pt") == 0
    assert torch.equal(torch.load("out.pt", weights_only=True), clip.encode("", padding="none"))
    told = capsys.readouterr()
    assert told.out == "out.pt: [1, 2, 32] fp32\n"
    assert "conditioning of 2 rows, without padding" in told.err


def test_without_a_key_a_safetensors_file_has_diffusers(folder, capsys):
    assert prompt("a fox", "--out", "out.safetensors") == 0
    assert list(read("out.safetensors")[0]) == ["prompt_embeds"]
    assert capsys.readouterr().out == "out.safetensors: prompt_embeds [1, 77, 32] fp32\n"


def test_the_record_is_that_of_the_encoding(folder, clip):
    assert prompt("a fox", "--padding", "none", "--out", "out.safetensors") == 0
    record = json.loads(read("out.safetensors")[1]["sd2_clip.prompts"])["prompt_embeds"]
    own = json.loads(encode_text(clip, "a fox", padding="none").conditioning[0][1]["sd2_clip"])
    assert (record["text"], record["padding"], record["layer"]) == ("a fox", "none", own["layer"])
    assert len(record["weights"]["tensors_sha256"]) == 64


def test_textual_inversions_are_found_in_their_folder(folder, capsys):
    (folder / "inversions").mkdir()
    layouts.save_safetensors(
        {"emb_params": torch.zeros(2, 32)}, folder / "inversions/oil.safetensors"
    )
    assert prompt("embedding:oil", "--padding", "none", "--embeddings", "inversions",
                  "--out", "out.safetensors") == 0  # fmt: skip
    assert read("out.safetensors")[0]["prompt_embeds"].shape == (1, 4, 32)
    assert "oil (2 vectors)" in capsys.readouterr().err


def test_an_inversion_without_a_folder_is_told_once_with_its_cure(folder, capsys, caplog):
    assert prompt("embedding:nowhere-given", "--out", "out.safetensors") == 0
    said = caplog.text + capsys.readouterr().err
    assert said.count("nowhere-given") == 1
    assert "Give one with --embeddings DIR" in said


def write_lora(path):
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    down, up = torch.ones(1, 32), torch.ones(layouts.TINY_CONFIG["intermediate_size"], 1)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    layouts.save_safetensors(tensors, path)
    return path


def test_loras_are_applied_with_their_strength_and_told(folder, clip, capsys):
    lora = write_lora(folder / "ink.safetensors")
    words = ("a fox", "--lora", "ink.safetensors:0.5", "--lora", lora, "--out", "out.safetensors")
    assert prompt(*words) == 0
    said = capsys.readouterr().err
    assert "changed at strength 0.5" in said
    assert "changed at strength 1" in said
    expected = apply_lora(apply_lora(clip, lora, 0.5)[0], lora)[0].encode("a fox")
    torch.testing.assert_close(read("out.safetensors")[0]["prompt_embeds"], expected)
    assert not torch.equal(expected, clip.encode("a fox"))


def test_a_missing_lora_is_named(folder, capsys):
    assert prompt("a fox", "--lora", "gone.safetensors:2", "--out", "out.safetensors") == 1
    assert "gone.safetensors: no such file" in capsys.readouterr().err


def test_for_comfyui_the_file_is_that_of_save_sd2_conditioning(folder, clip, capsys):
    words = ("a (fox:1.3)", "--padding", "none")
    assert prompt(*words, "--for", "comfyui", "--out", "fox.safetensors") == 0
    assert "fox.safetensors: conditioning [1, 4, 32] for Load" in capsys.readouterr().out
    [loaded] = LoadSD2Conditioning().load("fox.safetensors")
    [[cond, options]] = loaded
    assert torch.equal(cond, clip.encode("a (fox:1.3)", padding="none"))
    assert json.loads(options["sd2_clip"])["text"] == "a (fox:1.3)"
    assert "pooled_output" in options


def test_for_comfyui_a_text_may_make_several_prompts(folder):
    words = ("a [cat:dog:0.5]", "--syntax", "a1111", "--for", "comfyui", "--out", "two.safetensors")
    assert prompt(*words) == 0
    [loaded] = LoadSD2Conditioning().load("two.safetensors")
    assert [options["end_percent"] for _, options in loaded] == [0.5, 1.0]


def test_a_file_for_another_program_is_refused_by_the_node_with_the_command(folder):
    assert prompt("a fox", "--out", "fox.safetensors") == 0
    with pytest.raises(ConditioningError, match="sd2-clip prompt TEXT --for comfyui"):
        LoadSD2Conditioning().load("fox.safetensors")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "out.safetensors"], "TEXT is missing"),
        (["a", "--out", "out.pt"], "writes a .safetensors file"),
        (["a", "--out", "out.safetensors", "--key", "x"], "decides --key and --dtype itself"),
        (["a", "--out", "out.safetensors", "--dtype", "fp16"], "decides --key and --dtype itself"),
    ],
    ids=str,
)
def test_what_comfyui_would_not_read_is_refused(words, message, folder, capsys):
    assert prompt("--for", "comfyui", *words) == 1
    assert message in capsys.readouterr().err


def test_the_same_prompt_makes_the_same_torch_file(folder):
    for name in ("a", "b"):
        assert prompt("a fox", "--out", folder / f"{name}.pt") == 0
    assert (folder / "a.pt").read_bytes() == (folder / "b.pt").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "TEXT is missing"),
        (["a fox", "--for", "marigold"], "TEXT is another one"),
        (["--for", "chord", "--key", "x"], "--for chord decides --key itself"),
        (["--for", "lotus", "--padding", "chunk", "--steps", "3"], "decides --steps, --padding"),
        (["x " * 76, "--padding", "none"], "takes 2 chunks (76 tokens)"),
        (["[a:b:0.5]", "--syntax", "a1111"], "makes 2 prompts"),
        (["a", "--steps", "-1"], "steps -1 is not between 0 and 10000"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused_before_anything_is(words, message, folder, capsys):
    assert prompt(*words, "--out", "out.pt") == 1
    assert message in capsys.readouterr().err
    assert not (folder / "out.pt").exists()


@pytest.mark.parametrize("text", [[], [""]], ids=["left out", "empty"])
def test_a_preset_needs_no_text(text, folder):
    assert prompt(*text, "--for", "marigold", "--out", "out.pt") == 0


def test_another_ending_is_refused(folder, capsys):
    assert prompt("a", "--out", "out.bin") == 1
    assert "must end in .safetensors or .pt" in capsys.readouterr().err


def test_an_existing_file_is_kept_unless_forced(folder, capsys):
    (folder / "out.pt").write_bytes(b"mine")
    assert prompt("a", "--out", "out.pt") == 1
    assert "already exists" in capsys.readouterr().err
    assert (folder / "out.pt").read_bytes() == b"mine"
    assert prompt("a", "--out", "out.pt", "--force") == 0
    assert torch.load("out.pt", weights_only=True).shape == CHUNK
