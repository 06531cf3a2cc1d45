"""LoRA files under every trainer's names, and their values against ComfyUI's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.lora.lora_file import LoraError, TextEncoderLora, lora_fingerprint, read_lora
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


ADAPTERS = load_file(DATA / "comfyui_0.29.0_adapters.safetensors")
ADAPTER_CASES = sorted({name.split(".")[0] for name in ADAPTERS if ".lora." in name})


@pytest.mark.parametrize("strength", [1.0, 0.7, -0.4])
@pytest.mark.parametrize("case", ADAPTER_CASES)
def test_other_changes_are_comfyuis(tmp_path: Path, case: str, strength: float) -> None:
    name = "text_model.encoder.layers.3.mlp.fc1"
    shape = tuple(ADAPTERS[f"{case}.shape"].tolist())
    shapes = {f"clip_h.transformer.{name}.weight": shape,
              f"{TEXT_MODEL}.final_layer_norm.weight": (16,)}  # fmt: skip
    start = f"{case}.lora."
    parts = {n.removeprefix(start): one for n, one in ADAPTERS.items() if n.startswith(start)}
    file = {f"lora_te_{name.replace('.', '_')}.{part}": one for part, one in parts.items()}
    lora = read_lora(write(tmp_path, file), shapes)
    (change,) = lora.changes.values()
    assert not lora.unmatched
    weight = ADAPTERS["weight.square" if shape == (16, 16) else "weight.rect"].clone()
    before = weight.clone()
    result = change(weight, strength)
    torch.testing.assert_close(result, ADAPTERS[f"{case}.result.{strength}"], rtol=1e-4, atol=1e-5)
    assert torch.equal(weight, before)
    again = {part.removeprefix("x.") for part in change.kohya_tensors("x")}
    not_used_by_core = {"alpha", "dora_scale"} if "diff" in parts else set()
    assert again == set(parts) - not_used_by_core


TINY = {f"{TEXT_MODEL}.final_layer_norm.weight": (32,),
        f"{TEXT_MODEL}.final_layer_norm.bias": (32,),
        f"{TEXT_MODEL}.encoder.layers.0.self_attn.q_proj.weight": (32, 32),
        f"{TEXT_MODEL}.encoder.layers.0.self_attn.q_proj.bias": (32,),
        f"{TEXT_MODEL}.encoder.layers.0.layer_norm1.weight": (32,),
        f"{TEXT_MODEL}.encoder.layers.0.layer_norm1.bias": (32,),
        f"{TEXT_MODEL}.encoder.layers.0.mlp.fc1.weight": (64, 32),
        f"{TEXT_MODEL}.encoder.layers.0.mlp.fc1.bias": (64,),
        f"{TEXT_MODEL}.embeddings.position_embedding.weight": (77, 32),
        f"{TEXT_MODEL}.embeddings.token_embedding.weight": (300, 32),
        "clip_h.transformer.text_projection.weight": (32, 32)}  # fmt: skip


def test_lycoris_full_changes_weight_and_bias() -> None:
    lora = read_lora(DATA / "lycoris_full_tiny32.safetensors", TINY)
    start = f"{TEXT_MODEL}.encoder.layers.0.self_attn.q_proj"
    assert set(lora.changes) == {f"{start}.weight", f"{start}.bias"}
    assert not lora.unmatched
    file = load_file(DATA / "lycoris_full_tiny32.safetensors")
    module = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    for name, part in (("weight", "diff"), ("bias", "diff_b")):
        before = torch.ones(TINY[f"{start}.{name}"])
        result = lora.changes[f"{start}.{name}"](before, 0.5)
        torch.testing.assert_close(result, before + 0.5 * file[f"{module}.{part}"])
    assert "full differences for Stable Diffusion 2: 2 weights in 1 layers" in lora.describe(0.5)


# What ComfyUI's "Extract and Save Lora" writes: every weight and bias of the encoder.
EXTRACTED = {
    "norm": ("encoder.layers.0.layer_norm1", "diff", "weight"),
    "norm's bias": ("encoder.layers.0.layer_norm1", "diff_b", "bias"),
    "final norm": ("final_layer_norm", "diff", "weight"),
    "final norm's bias": ("final_layer_norm", "diff_b", "bias"),
    "bias": ("encoder.layers.0.mlp.fc1", "diff_b", "bias"),
    "token table": ("embeddings.token_embedding", "diff", "weight"),
    "position table": ("embeddings.position_embedding", "diff", "weight"),
}


@pytest.mark.parametrize("case", EXTRACTED)
@pytest.mark.parametrize("prefix", ["text_encoders.clip_h.transformer.text_model.",
                                    "lora_te_text_model_"])  # fmt: skip
def test_differences_outside_the_matrices_are_understood(
    tmp_path: Path, case: str, prefix: str
) -> None:
    module, part, kind = EXTRACTED[case]
    target = f"{TEXT_MODEL}.{module}.{kind}"
    diff = torch.rand(TINY[target])
    name = module.replace(".", "_") if prefix.endswith("_") else module
    lora = read_lora(write(tmp_path, {f"{prefix}{name}.{part}": diff}), TINY)
    assert list(lora.changes) == [target]
    result = lora.changes[target](torch.ones(TINY[target]), 0.5)
    torch.testing.assert_close(result, 1 + 0.5 * diff)
    assert "changed" in lora.describe(0.5)


@pytest.mark.parametrize(("module", "name"), [
    (f"{TEXT_MODEL}.embeddings.position_embedding", "text_model.embeddings.position_embedding"),
    ("clip_h.transformer.text_projection", "text_projection"),
])  # fmt: skip
def test_tables_and_the_projection_may_be_changed_by_a_lora(
    tmp_path: Path, module: str, name: str
) -> None:
    outputs, inputs = TINY[f"{module}.weight"]
    up, down = pair(outputs, inputs)
    start = f"text_encoders.clip_h.transformer.{name}"
    file = {f"{start}.lora_up.weight": up, f"{start}.lora_down.weight": down}
    lora = read_lora(write(tmp_path, file), TINY)
    assert list(lora.changes) == [f"{module}.weight"]


def test_trained_norms_of_lycoris_are_understood(tmp_path: Path) -> None:
    start = "lora_te_text_model_encoder_layers_0_layer_norm1"
    file = {f"{start}.w_norm": torch.full((32,), 0.5), f"{start}.b_norm": torch.full((32,), 0.25)}
    lora = read_lora(write(tmp_path, file), TINY)
    target = f"{TEXT_MODEL}.encoder.layers.0.layer_norm1"
    assert lora.changes[f"{target}.weight"](torch.ones(32), 1.0).tolist() == [1.5] * 32
    assert lora.changes[f"{target}.bias"](torch.zeros(32), 1.0).tolist() == [0.25] * 32


def test_a_difference_of_another_width_is_refused_by_its_bias(tmp_path: Path) -> None:
    file = {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.diff_b": torch.ones(768)}
    with pytest.raises(LoraError, match=r"768 wide \(CLIP-L of SD 1.x"):
        read_lora(write(tmp_path, file), SHAPES)


NOT_APPLIED = {
    "BOFT": ("oft_blocks", (2, 4, 8, 8)),
    "PEFT's OFT": ("oft_R.weight", (4, 28)),
    "(IA)³": ("ia3_l", (4096, 1)),
    "VeRA": ("vera_lambda_d", (4,)),
    "Tucker decomposition": ("lora_mid.weight", (2, 2, 3, 3)),
    "LyCORIS' sparse biases": ("bias_values", (4,)),
    "a change of a weight's shape (reshape_weight)": ("reshape_weight", (2,)),
    "whole weights, as in a model": ("weight", (4096, 1024)),
    "the bias of PEFT's LoRA (lora_bias)": ("lora_B.bias", (4096,)),
}


@pytest.mark.parametrize("kind", NOT_APPLIED)
def test_a_kind_that_is_not_applied_is_named(tmp_path: Path, kind: str) -> None:
    part, shape = NOT_APPLIED[kind]
    name = f"text_encoder.text_model.encoder.layers.3.mlp.fc1.{part}"
    lora = read_lora(write(tmp_path, {name: torch.ones(shape)}), SHAPES)
    assert not lora.changes
    report = lora.describe(1.0)
    assert f"1 tensors not applied ({kind}): {name}" in report
    assert "nothing of it was applied: the CLIP is unchanged" in report
    assert "holds nothing" not in report


def test_lycoris_ia3_is_named_whole(tmp_path: Path) -> None:
    file = {f"{kohya()}.weight": torch.ones(1024), f"{kohya()}.on_input": torch.tensor(True)}
    report = read_lora(write(tmp_path, file), SHAPES).describe(1.0)
    assert "2 tensors not applied ((IA)³)" in report


def test_ofts_rescale_is_left_out_and_named(tmp_path: Path) -> None:
    file = {f"{kohya()}.oft_blocks": torch.zeros(512, 8, 8),
            f"{kohya()}.rescale": torch.ones(4096, 1)}  # fmt: skip
    lora = read_lora(write(tmp_path, file), SHAPES)
    assert len(lora.changes) == 1
    assert "not applied (OFT's rescale, which ComfyUI does not apply either)" in lora.describe(1.0)


# alpha outside the tensors


PEFT = "text_encoder.text_model.encoder.layers.3.mlp.fc1"


def peft_file(folder: Path, **metadata: str) -> Path:
    up, down = pair(rank=4)
    state = {f"{PEFT}.lora_A.weight": down, f"{PEFT}.lora_B.weight": up}
    return write(folder, state, **metadata)


def only(lora: TextEncoderLora) -> Change:
    (change,) = lora.changes.values()
    assert isinstance(change, Change)
    return change


def packed(**values: object) -> str:
    return json.dumps({f"text_encoder.{name}": value for name, value in values.items()})


HEADERS: dict[str, tuple[dict[str, str], float]] = {
    "diffusers": ({"lora_adapter_metadata": packed(r=4, lora_alpha=16)}, 16),
    "diffusers, rsLoRA": (
        {"lora_adapter_metadata": packed(r=4, lora_alpha=16, use_rslora=True)}, 32),
    "diffusers, alpha of modules": (
        {"lora_adapter_metadata": packed(r=4, lora_alpha=16, alpha_pattern={
            "encoder.layers.3.mlp.fc1": 8, "q_proj": 1})}, 8),
    "diffusers, ranks of modules": (
        {"lora_adapter_metadata": packed(r=8, lora_alpha=16, rank_pattern={"mlp.fc1": 4})}, 16),
    "plain": ({"lora_alpha": "16"}, 16),
    "plain with rank": ({"lora_alpha": "16", "r": "4"}, 16),
    "plain, other names": ({"alpha": "16.0", "rank": "4"}, 16),
    "plain network_alpha": ({"network_alpha": "16"}, 16),
    "plain with the model's name": (
        {"text_encoder.lora_alpha": "16", "text_encoder.r": "4", "unet.lora_alpha": "1"}, 16),
    "plain, rsLoRA": ({"lora_alpha": "16", "use_rslora": "True"}, 32),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_alpha_in_the_header_is_applied_as_trained_and_said(tmp_path: Path, case: str) -> None:
    metadata, alpha = HEADERS[case]
    lora = read_lora(peft_file(tmp_path, **metadata), SHAPES)
    assert only(lora).alpha == alpha
    report = lora.describe(1.0)
    assert f"the change is scaled by {alpha / 4:g}." in report
    assert "ComfyUI's own LoRA loader does not read alpha there" in report
    assert ("(rsLoRA)" in report) == ("rsLoRA" in case)


UNUSED_HEADERS = {
    "of the UNet": {"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 16}'},
    "no number": {"lora_alpha": "many"},
    "not finite": {"lora_alpha": "inf"},
    "zero": {"lora_alpha": "0"},
    "no JSON": {"lora_adapter_metadata": "{"},
    "a list": {"lora_adapter_metadata": "[16]"},
    "deep": {"lora_adapter_metadata": "[" * 100_000},
    "another method": {"lora_adapter_metadata": '{"peft_type": "LOHA", "lora_alpha": 16}'},
}


@pytest.mark.parametrize("case", UNUSED_HEADERS)
def test_other_headers_change_nothing(tmp_path: Path, case: str) -> None:
    lora = read_lora(peft_file(tmp_path, **UNUSED_HEADERS[case]), SHAPES)
    assert only(lora).alpha is None
    assert "alpha" not in lora.describe(1.0)


def test_alpha_for_another_rank_is_not_used_and_said(tmp_path: Path) -> None:
    metadata = {"lora_adapter_metadata": packed(r=8, lora_alpha=16)}
    lora = read_lora(peft_file(tmp_path, **metadata), SHAPES)
    assert only(lora).alpha is None
    assert "is not used: it is for rank 8" in lora.describe(1.0)


def test_alpha_of_the_tensors_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path, rank_two(alpha=torch.tensor(1.0)), lora_alpha="16")
    lora = read_lora(path, SHAPES)
    assert only(lora).alpha == 1.0
    assert "header" not in lora.describe(1.0)


@pytest.mark.parametrize(("rslora", "alpha"), [(False, 16), (True, 32)])
def test_alpha_of_pefts_configuration_is_applied(
    tmp_path: Path, rslora: bool, alpha: float
) -> None:
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": rslora}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    lora = read_lora(peft_file(tmp_path), SHAPES)
    assert only(lora).alpha == alpha
    assert "from adapter_config.json beside the file" in lora.describe(1.0)


def test_pefts_configuration_is_not_for_a_kohya_file_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 16}')
    assert only(read_lora(write(tmp_path, rank_two()), SHAPES)).alpha is None


def test_a_changed_configuration_changes_the_fingerprint(tmp_path: Path) -> None:
    path = peft_file(tmp_path)
    before = lora_fingerprint(path)
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 16}')
    assert lora_fingerprint(path) != before


def test_the_recorded_file_with_alpha_in_its_header() -> None:
    path = DATA / "lora_alpha_in_header.safetensors"
    start = f"{TEXT_MODEL}.encoder.layers.0.self_attn.q_proj.weight"
    lora = read_lora(path, {**SHAPES, start: (1024, 1024)})
    file = {name.split(".")[-2]: one.float() for name, one in load_file(path).items()}
    result = only(lora)(torch.zeros(1024, 1024), 0.5)
    torch.testing.assert_close(result, 0.5 * 4 * file["lora_B"] @ file["lora_A"])
    assert "alpha 16 from lora_adapter_metadata" in lora.describe(1.0)
    assert "scaled by 4." in lora.describe(1.0)


# Files for the UNet alone, and files that cannot be right


EARLY_UNET_NAMES = {
    "diffusers' processors": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora",
        ".down.weight"),
    "diffusers' processors, named": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora",
        ".down.weight"),
    "PEFT": ("base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
             ".lora_A.weight"),
    "PEFT in a pipeline": (
        "unet.base_model.model.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v",
        ".lora_A.default.weight"),
    "kohya LoHa": ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
                   ".hada_w1_b"),
}  # fmt: skip


@pytest.mark.parametrize("case", EARLY_UNET_NAMES)
def test_unet_names_of_every_trainer_are_called_so(tmp_path: Path, case: str) -> None:
    name, down = EARLY_UNET_NAMES[case]
    lora = read_lora(write(tmp_path, {name + down: torch.ones(2, 1024)}), SHAPES)
    report = lora.describe(1.0)
    assert "is for the UNet alone: the CLIP is unchanged" in report
    assert "1 tensors are for the UNet: load them with Load LoRA" in report
    with pytest.raises(LoraError, match=r"for the UNet of Stable Diffusion 1"):
        read_lora(write(tmp_path, {name + down: torch.ones(2, 768)}), SHAPES)


def test_the_recorded_file_for_sd1s_unet_is_refused_by_its_width() -> None:
    with pytest.raises(LoraError, match=r"UNet of Stable Diffusion 1\.x \(conditioning 768 wide"):
        read_lora(DATA / "pytorch_lora_weights_unet_only_sd1.bin", SHAPES)


def test_a_lora_that_is_not_finite_is_refused_by_the_tensors_name() -> None:
    with pytest.raises(LoraError, match=r"mlp_fc1\.lora_\w+\.weight holds NaN or infinity"):
        read_lora(DATA / "lora_nan_tiny.safetensors", TINY)


def test_a_rank_above_the_weights_width_is_refused() -> None:
    shapes = {**SHAPES, f"{TEXT_MODEL}.encoder.layers.0.mlp.fc1.weight": (4096, 1024)}
    with pytest.raises(LoraError, match=r"have rank 65,000, more than the 4,096"):
        read_lora(DATA / "lora_rank65000_2KB.pt", shapes)


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


def test_an_alpha_that_would_overflow_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, rank_two(alpha=torch.tensor(1e30)))
    with pytest.raises(LoraError, match=r"is 1e\+30 for rank 2: the change would overflow"):
        read_lora(path, SHAPES)
