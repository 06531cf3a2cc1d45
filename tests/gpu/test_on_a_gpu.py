"""What the CPU's tests cannot show, on a real card: ``pytest tests/gpu`` where torch sees one.

The tiny encoder and ComfyUI's own encodings of it, in each dtype; tolerances are those of the
dtype's rounding.
"""

import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sd2_clip.clip.encode_text import encode_text
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.sd2.errors import NotFiniteError
from sd2_clip.sd2.lora.lora_file import read_lora

if not torch.cuda.is_available():
    pytest.skip("torch sees no CUDA or ROCm card", allow_module_level=True)

FILE = tiny.GOLDEN / "tiny_text_encoder.safetensors"
EXPECTED = load_file(tiny.GOLDEN / "encode.safetensors")
TOLERANCE = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.06}
PROMPTS = {
    "plain": "a photo of a cat",
    "weighted": "a (red:1.4) cat and a (dog:0.6)",
    "long": "(a:1.2)(b:1.4)(c:0.8) " * 30,
    "break": "a cat BREAK a dog",
    "schedule": "a [cat:dog:0.5] in a [red|blue] hat",
    "and": "a cat :0.7 AND a dog",
    "embedding": "a cat, embedding:kohya",
}


@pytest.fixture
def card() -> torch.device:
    return torch.device("cuda", 0)


def clip_on(device: str, dtype: str | None = None, **options):
    options |= {"embedding_directory": tiny.GOLDEN / "embeddings"}
    return load_clip(FILE, device=device, dtype=dtype, model_options=tiny.MODEL_OPTIONS, **options)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    assert found.isfinite().all()
    return float((found.cpu().float() - expected.cpu().float()).norm() / expected.float().norm())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", [c["id"] for c in tiny.core_cases()])
def test_comfyuis_encodings(card, dtype, case):
    [core] = [c for c in tiny.core_cases() if c["id"] == case]
    clip = clip_on("gpu:0", dtype)
    clip.clip_layer(core["layer"])
    cond, pooled = clip.encode_from_tokens(clip.tokenize(core["text"]), return_pooled=True)
    assert cond.device.type == pooled.device.type == "cpu"
    assert cond.dtype == torch.float32
    assert error(cond, EXPECTED[f"{case}.cond"]) < TOLERANCE[dtype]
    assert error(pooled, EXPECTED[f"{case}.pooled"]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("syntax", ["comfy", "a1111"])
@pytest.mark.parametrize("interpretation", ["comfy", "A1111", "compel", "comfy++", "down_weight"])
def test_each_syntax_and_weighting_gives_what_the_cpu_gives(card, dtype, syntax, interpretation):
    on_card, on_cpu = clip_on("auto", dtype), clip_on("cpu", "fp32")
    for text in PROMPTS.values():
        options = {"syntax": syntax, "weight_interpretation": interpretation}
        found = encode_text(on_card, text, **options).conditioning
        expected = encode_text(on_cpu, text, **options).conditioning
        assert len(found) == len(expected)
        for (cond, values), (right, right_values) in zip(found, expected, strict=True):
            assert error(cond, right) < 2 * TOLERANCE[dtype]
            pooled = values["pooled_output"], right_values["pooled_output"]
            assert error(*pooled) < 2 * TOLERANCE[dtype]


def test_auto_is_the_first_card_in_fp16(card):
    clip = clip_on("auto")
    weights = list(clip.cond_stage_model.clip_h.transformer.parameters())
    assert {weight.device for weight in weights} == {card}
    assert {weight.dtype for weight in weights} == {torch.float16}


def test_a_card_that_does_not_exist_is_said(card):
    clip = clip_on("gpu:99")
    assert any("gpu:99 does not exist" in note for note in clip.cond_stage_model.source.notes)
    assert clip.encode("a cat").isfinite().all()


@pytest.mark.parametrize("layer", ["last", "all", "hidden"])
def test_every_choice_of_layer(card, layer):
    options = {"layer": layer, "layer_idx": -3} if layer == "hidden" else {"layer": layer}
    right = clip_on("cpu", "fp32", **options).encode_from_tokens(
        clip_on("cpu").tokenize("a (red:1.3) cat")
    )
    clip = clip_on("gpu:0", "fp32", **options)
    assert error(clip.encode_from_tokens(clip.tokenize("a (red:1.3) cat")), right) < 1e-4


def test_a_changed_weight_changes_the_next_result(card):
    clip = clip_on("gpu:0", "fp32")
    before = clip.encode("a cat")
    assert torch.equal(clip.encode("a cat"), before)
    parameters = dict(clip.cond_stage_model.named_parameters())
    name = next(name for name in parameters if name.endswith("layers.0.mlp.fc1.weight"))
    parameters[name].data.mul_(1.5)
    assert not torch.allclose(clip.encode("a cat"), before, atol=1e-3)


def test_a_lora_on_the_card_is_the_cpus(card, tmp_path):
    layer = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    generator = torch.Generator().manual_seed(1)
    width = tiny.CONFIG["hidden_size"]
    lora = {
        f"{layer}.lora_down.weight": torch.randn(4, width, generator=generator) / 4,
        f"{layer}.lora_up.weight": torch.randn(
            tiny.CONFIG["intermediate_size"], 4, generator=generator
        )
        / 4,
        f"{layer}.alpha": torch.tensor(2.0),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    encoded = {}
    for device in ("cpu", "gpu:0"):
        clip = clip_on(device, "fp32").clone()
        shapes = {name: tuple(t.shape) for name, t in clip.cond_stage_model.state_dict().items()}
        changes = read_lora(tmp_path / "lora.safetensors", shapes).changes
        assert clip.add_patches(changes, 0.8)
        encoded[device] = clip.encode("a cat")
    assert error(encoded["gpu:0"], encoded["cpu"]) < 1e-4


def test_weights_in_memory_stay_where_they_are(card):
    tensors = {name: tensor.to(card) for name, tensor in tiny.state_dict().items()}
    clip = load_clip(tensors, model_options=tiny.MODEL_OPTIONS)
    addresses = {tensor.data_ptr() for tensor in tensors.values()}
    used = {weight.data_ptr() for weight in clip.cond_stage_model.parameters()}
    assert len(used - addresses) == 1  # logit_scale, which the file lacks
    assert error(clip.encode("a cat"), clip_on("cpu", "fp32").encode("a cat")) < 0.01


def test_nan_from_the_card_is_an_error_that_names_its_origin(card):
    clip = clip_on("gpu:0")
    parameters = dict(clip.cond_stage_model.named_parameters())
    name = next(name for name in parameters if name.endswith("layers.1.mlp.fc2.weight"))
    with torch.no_grad():
        parameters[name][0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match=r"layers\.1\.mlp\.fc2"):
        clip.encode("a cat")


def test_a_data_set_is_the_cpus_and_is_the_same_again(card, tmp_path):
    source = tmp_path / "captions.txt"
    source.write_text("\n".join(f"a cat number {number % 90}" for number in range(700)))
    for out, device in (("card", "gpu:0"), ("again", "gpu:0"), ("cpu", "cpu")):
        encoder = tiny.caption_encoder(device=device, dtype="fp32", store="fp32", pooled=True)
        if device != "cpu":
            assert encoder.device == card
            assert encoder.batch_size == 128
        encode_captions(str(source), str(tmp_path / out), encoder, make_format("safetensors"))
    card_files, again, on_cpu = (
        {path.stat().st_size: path for path in (tmp_path / out).rglob("*.safetensors")}
        for out in ("card", "again", "cpu")
    )  # names depend on the settings, of which the device's batch size is one
    largest = max(card_files)
    assert card_files[largest].read_bytes() == again[largest].read_bytes()
    found, right = load_file(card_files[largest]), load_file(on_cpu[max(on_cpu)])
    assert found.keys() == right.keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            assert error(tensor, right[name]) < 1e-4


def test_saved_weights_of_the_card_load_to_it_again(card, tmp_path):
    clip = clip_on("gpu:0")
    saved = {name: tensor.cpu().contiguous() for name, tensor in clip.get_sd().items()}
    save_file(saved, tmp_path / "saved.safetensors")
    again = load_clip(
        tmp_path / "saved.safetensors", device="gpu:0", model_options=tiny.MODEL_OPTIONS
    )
    assert torch.equal(again.encode("a cat"), clip.encode("a cat"))


@pytest.mark.full_size
def test_the_commands_compute_on_the_card(card, tmp_path):
    """With random weights of SD2's size: the demo's workflow, and a prompt on either device."""

    def command(*arguments: str) -> str:
        line = [sys.executable, "-m", "sd2_clip", *arguments]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("demo")
    [weights] = (tmp_path / "demo").rglob("*RANDOM*.safetensors")
    for device in ("cpu", "gpu:0"):
        command("prompt", "a cat", "--checkpoint", str(weights), "--device", device,
                "--out", device.replace(":", "") + ".safetensors")  # fmt: skip
    [on_cpu] = load_file(tmp_path / "cpu.safetensors").values()
    [on_card] = load_file(tmp_path / "gpu0.safetensors").values()
    assert error(on_card, on_cpu) < 0.01
