"""The loader node's own checks; what it loads is tested in tests/clip."""

import layouts
import pytest
import torch
from sd2_clip import NODE_CLASS_MAPPINGS


def test_a_name_or_device_that_comes_by_a_link_is_checked_when_it_is_known(standalone):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIP"]
    assert node.VALIDATE_INPUTS(clip_name=None, device=None) is True
    changed = node.IS_CHANGED(clip_name=None)
    assert changed != changed  # nan: it is run each time


def test_a_replaced_file_changes_the_loaders_identity(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIP"]
    before = node.IS_CHANGED("sd2.safetensors", layer="last")
    assert before == node.IS_CHANGED("sd2.safetensors", layer="last")
    layouts.save_safetensors({"x": torch.zeros(1)}, tmp_path / "models/clip/sd2.safetensors")
    assert node.IS_CHANGED("sd2.safetensors", layer="last") != before


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"clip_name": "sd2.safetensors"}, None),
        ({"clip_name": ".\\sd2.safetensors", "device": "gpu:7"}, None),
        ({"clip_name": "gone.ckpt"}, "none of the model folders"),
        ({"clip_name": "sd2.safetensors", "device": "tpu"}, "Choose auto, cpu"),
    ],
)
def test_the_loader_checks_names_and_devices_itself(inputs, fault, clip):
    verdict = NODE_CLASS_MAPPINGS["LoadSD2CLIP"].VALIDATE_INPUTS(**inputs)
    assert verdict is True if fault is None else fault in verdict
