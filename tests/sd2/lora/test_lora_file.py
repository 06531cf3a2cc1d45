"""LoRA files under every trainer's names, and their values against ComfyUI's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.lora.lora_file import LoraError, read_lora
from sd2_clip.sd2.lora.weight_adapters import Change, LoRA

DATA = Path(__file__).parents[2] / "data" / "lora"


LYCORIS = load_file(DATA / "comfyui_0.29.0_lycoris.safetensors")


TEXT_MODEL = "clip_h.transformer.text_model"


MODULES = {"self_attn.q_proj": (1024, 1024), "mlp.fc1": (4096, 1024), "mlp.fc2": (1024, 4096)}


SHAPES = {f"{TEXT_MODEL}.final_layer_norm.weight": (1024,)} | {
    f"{TEXT_MODEL}.encoder.layers.{layer}.{module}.weight": shape
    for layer in range(24)
    for module, shape in MODULES.items()
}


NAMINGS = {
    "kohya": ("lora_te_text_model_encoder_layers_3_mlp_fc1", ".lora_up.weight",
              ".lora_down.weight"),
    "kohya te1": ("lora_te1_text_model_encoder_layers_3_mlp_fc1", ".lora_up.weight",
                  ".lora_down.weight"),
    "kohya flattened": ("lora_te_encoder_layers_3_mlp_fc1", ".lora_up.weight",
                        ".lora_down.weight"),
    "diffusers": ("text_encoder.text_model.encoder.layers.3.mlp.fc1",
                  ".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"),
    "diffusers short": ("text_encoder.text_model.encoder.layers.3.mlp.fc1", ".lora.up.weight",
                        ".lora.down.weight"),
    "diffusers flattened": ("text_encoder.encoder.layers.3.mlp.fc1", ".lora_B.weight",
                            ".lora_A.weight"),
    "peft": ("base_model.model.text_model.encoder.layers.3.mlp.fc1", ".lora_B.weight",
             ".lora_A.weight"),
    "peft adapter name": ("base_model.model.text_model.encoder.layers.3.mlp.fc1",
                          ".lora_B.default.weight", ".lora_A.default.weight"),
    "ComfyUI": ("text_encoders.clip_h.transformer.text_model.encoder.layers.3.mlp.fc1",
                ".lora_up.weight", ".lora_down.weight"),
}  # fmt: skip


def pair(outputs: int = 4096, inputs: int = 1024, rank: int = 2) -> tuple[torch.Tensor, ...]:
    return torch.ones(outputs, rank), torch.full((rank, inputs), 0.5)


def write(folder: Path, state: dict[str, torch.Tensor], **metadata: str) -> Path:
    path = folder / "some.safetensors"
    save_file({name: tensor.clone() for name, tensor in state.items()}, path, metadata)
    return path


def kohya(module: str = "mlp_fc1", layer: int = 3) -> str:
    return f"lora_te_text_model_encoder_layers_{layer}_{module}"


@pytest.mark.parametrize(("name", "up", "down"), NAMINGS.values(), ids=NAMINGS)
def test_naming_is_understood(tmp_path: Path, name: str, up: str, down: str) -> None:
    tensors = pair()
    lora = read_lora(write(tmp_path, {name + up: tensors[0], name + down: tensors[1]}), SHAPES)
    assert list(lora.changes) == [f"{TEXT_MODEL}.encoder.layers.3.mlp.fc1.weight"]
    change = next(iter(lora.changes.values()))
    assert torch.equal(change.factors.up, tensors[0])
    assert torch.equal(change.factors.down, tensors[1])
    assert not lora.unmatched


def test_oldest_diffusers_names_are_understood(tmp_path: Path) -> None:
    up, down = pair(1024, 1024)
    name = "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora"
    lora = read_lora(
        write(tmp_path, {f"{name}.up.weight": up, f"{name}.down.weight": down}), SHAPES
    )
    assert list(lora.changes) == [f"{TEXT_MODEL}.encoder.layers.0.self_attn.q_proj.weight"]


LYCORIS_CASES = sorted({name.split(".")[0] for name in LYCORIS if ".lora." in name})


def lycoris(case: str) -> dict[str, torch.Tensor]:
    start = f"{case}.lora."
    return {
        name.removeprefix(start): one for name, one in LYCORIS.items() if name.startswith(start)
    }


@pytest.mark.parametrize("strength", [1.0, 0.7, -0.4])
@pytest.mark.parametrize("case", LYCORIS_CASES)
def test_lycoris_changes_are_comfyuis(tmp_path: Path, case: str, strength: float) -> None:
    name = "text_model.encoder.layers.3.mlp.fc1"
    shapes = {f"clip_h.transformer.{name}.weight": (24, 16),
              f"{TEXT_MODEL}.final_layer_norm.weight": (16,)}  # fmt: skip
    file = {f"lora_te_{name.replace('.', '_')}.{part}": one for part, one in lycoris(case).items()}
    lora = read_lora(write(tmp_path, file), shapes)
    (change,) = lora.changes.values()
    assert not lora.unmatched
    result = change(LYCORIS["weight"].clone(), strength)
    torch.testing.assert_close(result, LYCORIS[f"{case}.result.{strength}"], rtol=1e-5, atol=1e-6)
    again = change.kohya_tensors("x")
    assert {part.removeprefix("x.") for part in again} == set(lycoris(case))


def test_lycoris_tensors_of_another_width_are_named(tmp_path: Path) -> None:
    file = {f"{kohya()}.hada_w{i}_a": torch.ones(3072, 2) for i in (1, 2)}
    file |= {f"{kohya()}.hada_w{i}_b": torch.ones(2, 768) for i in (1, 2)}
    with pytest.raises(LoraError, match=r"768 wide \(CLIP-L of SD 1.x"):
        read_lora(write(tmp_path, file), SHAPES)


def test_the_report_names_the_kind(tmp_path: Path) -> None:
    file = {f"{kohya()}.diff": torch.ones(4096, 1024)}
    report = read_lora(write(tmp_path, file), SHAPES).describe(1.0)
    assert "full differences for Stable Diffusion 2: 1 weights in 1 layers changed" in report
    file = {f"{kohya()}.lokr_w1": torch.ones(64, 32), f"{kohya()}.lokr_w2_a": torch.ones(64, 4),
            f"{kohya()}.lokr_w2_b": torch.ones(4, 32)}  # fmt: skip
    report = read_lora(write(tmp_path, file), SHAPES).describe(0.5)
    assert "LoKr for Stable Diffusion 2, rank 4: 1 weights" in report


def test_kohya_tensors_read_back_as_the_same_change(tmp_path: Path) -> None:
    up, down = pair()
    change = Change(LoRA(up, down), alpha=3.0, dora_scale=torch.ones(1, 1024))
    lora = read_lora(write(tmp_path, change.kohya_tensors(kohya())), SHAPES)
    found = next(iter(lora.changes.values()))
    assert found.alpha == 3.0
    assert found.dora_scale is not None
    assert torch.equal(found.dora_scale, torch.ones(1, 1024))


def test_pefts_magnitudes_are_one_number_a_row(tmp_path: Path) -> None:
    up, down = pair()
    name = "base_model.model.text_model.encoder.layers.3.mlp.fc1"
    state = {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down,
             f"{name}.lora_magnitude_vector": torch.ones(4096)}  # fmt: skip
    lora = read_lora(write(tmp_path, state), SHAPES)
    found = next(iter(lora.changes.values())).dora_scale
    assert found is not None
    assert found.shape == (4096, 1)


@pytest.mark.parametrize(
    ("width", "family"), [(768, "CLIP-L of SD 1.x"), (1280, "OpenCLIP bigG of SDXL")]
)
def test_another_width_is_refused_with_its_familys_name(
    tmp_path: Path, width: int, family: str
) -> None:
    up, down = pair(4 * width, width)
    name = kohya()
    path = write(tmp_path, {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down})
    with pytest.raises(LoraError, match=rf"{width} wide \({family}"):
        read_lora(path, SHAPES)


def test_two_text_encoders_are_sdxls(tmp_path: Path) -> None:
    name = "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    path = write(tmp_path, {f"{name}.lora_up.weight": torch.ones(2, 2)})
    with pytest.raises(LoraError, match="SDXL"):
        read_lora(path, SHAPES)


def unet_only(context: int) -> dict[str, torch.Tensor]:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    return {f"{name}.lora_down.weight": torch.ones(2, context),
            f"{name}.lora_up.weight": torch.ones(320, 2)}  # fmt: skip


@pytest.mark.parametrize(("context", "family"), [(768, "Stable Diffusion 1"), (2048, "SDXL")])
def test_another_familys_unet_is_refused(tmp_path: Path, context: int, family: str) -> None:
    with pytest.raises(LoraError, match=f"for the UNet of {family}"):
        read_lora(write(tmp_path, unet_only(context)), SHAPES)


def test_a_lora_for_the_unet_alone_is_no_error_and_says_so(tmp_path: Path) -> None:
    lora = read_lora(write(tmp_path, unet_only(1024)), SHAPES)
    assert not lora.changes
    report = lora.describe(1.0)
    assert "the CLIP is unchanged" in report
    assert "2 tensors are for the UNet" in report


def test_report_names_at_most_five_tensors_that_were_not_understood(tmp_path: Path) -> None:
    state = {f"{kohya(layer=n)}.hada_w1_a": torch.ones(2, 2) for n in range(9)}
    report = read_lora(write(tmp_path, state), SHAPES).describe(1.0)
    assert "9 tensors not understood" in report
    assert "and 4 more" in report


def test_report_tells_what_the_metadata_claims(tmp_path: Path) -> None:
    path = write(tmp_path, unet_only(1024), ss_v2="True")
    assert "ss_v2=True" in read_lora(path, SHAPES).describe(1.0)


def test_a_half_pair_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path, {f"{kohya()}.lora_up.weight": torch.ones(4096, 2)})
    lora = read_lora(path, SHAPES)
    assert not lora.changes
    assert lora.unmatched == (f"{kohya()}.lora_up.weight",)


def test_tensors_that_do_not_fit_together_are_an_error(tmp_path: Path) -> None:
    state = {f"{kohya()}.lora_up.weight": torch.ones(4096, 2),
             f"{kohya()}.lora_down.weight": torch.ones(3, 1024)}  # fmt: skip
    with pytest.raises(LoraError, match="do not fit a weight"):
        read_lora(write(tmp_path, state), SHAPES)


def test_a_clip_of_another_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="not Stable Diffusion 2"):
        read_lora(write(tmp_path, unet_only(1024)), {"clip_l.transformer.x": (768,)})


def test_what_is_no_model_file_is_an_error_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_text("no tensors")
    with pytest.raises(UnreadableFileError):
        read_lora(path, SHAPES)


def rank_two(**others: torch.Tensor) -> dict[str, torch.Tensor]:
    up, down = pair()
    state = {f"{kohya()}.lora_up.weight": up, f"{kohya()}.lora_down.weight": down}
    return state | {f"{kohya()}.{name}": tensor for name, tensor in others.items()}


DAMAGED = {
    "alpha of two": rank_two(alpha=torch.ones(2)),
    "alpha of none": rank_two(alpha=torch.ones(0)),
    "alpha NaN": rank_two(alpha=torch.tensor(float("nan"))),
    "alpha complex": rank_two(alpha=torch.tensor(1j)),
    "dora of one number": rank_two(dora_scale=torch.tensor(1.0)),
    "dora of another length": rank_two(dora_scale=torch.ones(5)),
    "dora of three dimensions": rank_two(dora_scale=torch.ones(4096, 1024, 1)),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_numbers_are_an_error(tmp_path: Path, case: str) -> None:
    with pytest.raises(LoraError, match="is damaged: alpha is one number"):
        read_lora(write(tmp_path, DAMAGED[case]), SHAPES)


@pytest.mark.parametrize("shapes", [((4096,), (2, 1024)), ((4096, 2), ()), ((4096, 0), (0, 1024))])
def test_factors_that_are_no_matrices_are_not_understood(
    tmp_path: Path, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    state = {f"{kohya()}.lora_up.weight": torch.ones(shapes[0]),
             f"{kohya()}.lora_down.weight": torch.ones(shapes[1])}  # fmt: skip
    lora = read_lora(write(tmp_path, state), SHAPES)
    assert not lora.changes
    assert len(lora.unmatched) == 2


def test_a_weight_under_two_names_is_changed_once_and_the_other_reported(tmp_path: Path) -> None:
    up, down = pair()
    other = "base_model.model.text_model.encoder.layers.3.mlp.fc1"
    state = rank_two() | {f"{other}.lora_B.weight": up, f"{other}.lora_A.weight": down}
    lora = read_lora(write(tmp_path, state), SHAPES)
    assert len(lora.changes) == 1
    assert len(lora.unmatched) == 2
