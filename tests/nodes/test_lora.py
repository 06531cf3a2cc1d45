"""The LoRA node; LoRA files are tested in tests/sd2/lora."""

import layouts
import pytest
import torch
from sd2_clip import NODE_CLASS_MAPPINGS

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
