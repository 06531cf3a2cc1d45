"""Changes of a weight have ComfyUI's values."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sd2_clip.sd2.lora.weight_adapters import Change, LoRA, factors_of

DATA = Path(__file__).parents[2] / "data" / "lora"


GOLDEN = load_file(DATA / "comfyui_0.29.0.safetensors")


@pytest.mark.parametrize("strength", [1.0, 0.7, -0.4])
@pytest.mark.parametrize("case", ["lora", "alpha", "dora_columns", "dora_rows"])
def test_changed_weight_is_comfyuis(case: str, strength: float) -> None:
    alpha = GOLDEN.get(f"{case}.alpha")
    change = Change(
        LoRA(GOLDEN["up"], GOLDEN["down"]),
        alpha=None if alpha is None else float(alpha),
        dora_scale=GOLDEN.get(f"{case}.dora_scale"),
    )
    before = GOLDEN["weight"].clone()
    result = change(before, strength)
    torch.testing.assert_close(result, GOLDEN[f"{case}.result.{strength}"], rtol=1e-5, atol=1e-6)
    assert torch.equal(before, GOLDEN["weight"])


def test_factors_that_are_two_kinds_at_once_or_half_of_one_are_none() -> None:
    one = torch.ones(2, 2)
    for names in ([], ["up"], ["up", "down", "diff"], ["lokr_w1"], ["hada_w1_a", "hada_w1_b"],
                  ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2"],
                  ["lokr_w1", "lokr_w2", "diff"]):  # fmt: skip
        assert factors_of(dict.fromkeys(names, one)) is None, names
