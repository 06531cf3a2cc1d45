"""The LoRA node; LoRA files are tested in tests/sd2/lora."""

import layouts
import pytest
import torch
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.errors import SD2ClipError
from sd2_clip.sd2.files.tensor_hash import patches_digest
from sd2_clip.sd2.lora.lora_file import LoraError

LAYER = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.fixture
def lora(clip, tmp_path):
    """A LoRA of one layer, and a tensor that belongs nowhere."""
    inner = layouts.TINY_CONFIG["hidden_size"]
    tensors = {
        f"{LAYER}.lora_down.weight": torch.randn(2, inner),
        f"{LAYER}.lora_up.weight": torch.randn(inner, 2),
        "lora_te_nowhere.lora_up.weight": torch.randn(inner, 2),
    }
    layouts.save_safetensors(tensors, tmp_path / "models/loras/style.safetensors")
    return "style.safetensors"


def test_a_lora_changes_a_clone_of_the_clip(nodes, clip, lora):
    before = clip.encode("a cat")
    patched, info = nodes["LoadSD2CLIPLora"].load(clip, lora, 0.5)["result"]
    assert not torch.equal(patched.encode("a cat"), before)
    assert torch.equal(clip.encode("a cat"), before)
    assert "lora_te_nowhere" in info


def test_what_fitted_is_shown_on_the_node(nodes, clip, lora):
    shown = nodes["LoadSD2CLIPLora"].load(clip, lora, 0.5)
    text = "\n".join(shown["ui"]["text"])
    assert "1 weights in 1 layers changed at strength 0.5" in text
    assert "1 tensors not understood" in text
    assert str(shown["result"][1]).endswith(text)


def test_strength_0_changes_nothing(nodes, clip, lora):
    patched, info = nodes["LoadSD2CLIPLora"].load(clip, lora, 0.0)["result"]
    assert patched is clip
    assert info


def test_a_name_that_comes_by_a_link_is_checked_when_it_is_known(standalone):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIPLora"]
    assert node.VALIDATE_INPUTS(lora_name=None) is True
    changed = node.IS_CHANGED(lora_name=None)
    assert changed != changed  # nan: it is run each time


def test_a_name_is_checked_with_any_separator(lora):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIPLora"]
    assert node.VALIDATE_INPUTS(lora_name=f".\\{lora}") is True
    assert "gone.safetensors" in node.VALIDATE_INPUTS(lora_name="gone.safetensors")


def test_a_replaced_file_changes_the_nodes_identity(clip, lora, tmp_path):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIPLora"]
    before = node.IS_CHANGED(lora)
    layouts.save_safetensors({"x": torch.zeros(1)}, tmp_path / "models/loras/style.safetensors")
    assert node.IS_CHANGED(lora) != before


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), float("-inf")])
def test_a_strength_that_is_no_number_is_refused(nodes, clip, lora, strength):
    with pytest.raises(LoraError, match=rf"style\.safetensors: strength is {strength}\."):
        nodes["LoadSD2CLIPLora"].load(clip, lora, strength)


OVERFLOWS = {
    "alpha times strength": ({"up": 1.0, "down": 1.0, "alpha": 1e5}, 100.0, "scaled by 5e.06"),
    "strength": ({"up": 1.0, "down": 1.0}, 1e30, "scaled by 1e.30"),
    "the product": ({"up": 1e30, "down": 1e30}, 1.0, "not numbers|as large as inf"),
    "the product at this strength": ({"up": 1e19, "down": 1e18}, 100.0, "as large as inf"),
}


@pytest.mark.parametrize("case", OVERFLOWS)
def test_a_change_that_overflows_is_refused(nodes, clip, tmp_path, case):
    values, strength, message = OVERFLOWS[case]
    inner = layouts.TINY_CONFIG["hidden_size"]
    tensors = {
        f"{LAYER}.lora_down.weight": torch.full((2, inner), values["down"]),
        f"{LAYER}.lora_up.weight": torch.full((inner, 2), values["up"]),
    }
    if "alpha" in values:
        tensors[f"{LAYER}.alpha"] = torch.tensor(values["alpha"])
    layouts.save_safetensors(tensors, tmp_path / "models/loras/large.safetensors")
    with pytest.raises(SD2ClipError, match=rf"large\.safetensors: .*q_proj.*({message})"):
        nodes["LoadSD2CLIPLora"].load(clip, "large.safetensors", strength)


def test_a_change_that_fp16_cannot_hold_is_refused(nodes, clip, tmp_path, standalone):
    file = tmp_path / "models/clip/sd2.safetensors"
    half = load_clip(
        file,
        device="cpu",
        dtype="fp16",
        model_options={"clip_h_model_config": layouts.TINY_CONFIG},
    )
    inner = layouts.TINY_CONFIG["hidden_size"]
    tensors = {
        f"{LAYER}.lora_down.weight": torch.full((1, inner), 300.0),
        f"{LAYER}.lora_up.weight": torch.full((inner, 1), 300.0),
    }
    layouts.save_safetensors(tensors, tmp_path / "models/loras/large.safetensors")
    node = nodes["LoadSD2CLIPLora"]
    assert node.load(clip, "large.safetensors", 1.0)["result"][0].patches
    with pytest.raises(SD2ClipError, match=r"as large as 9\d+[.\d]*, more than 65504, .* float16"):
        node.load(half, "large.safetensors", 1.0)
    assert not half.patches
    assert torch.isfinite(half.encode("a cat")).all()
    assert node.load(half, "large.safetensors", 0.5)["result"][0].patches


def test_a_lora_outlives_its_file(nodes, clip, lora, tmp_path):
    patched, _ = nodes["LoadSD2CLIPLora"].load(clip, lora, 0.5)["result"]
    digest = patches_digest(patched.patches)
    with (tmp_path / "models/loras" / lora).open("r+b") as file:
        file.truncate(0)
    assert patches_digest(patched.patches) == digest
