"""The comparison with published values, on a tiny encoder whose rows ComfyUI computed."""

import layouts
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from sd2_clip.cli import verify_command
from sd2_clip.clip import verify_encoder as verify_module
from sd2_clip.clip.load_clip import RANDOM_WEIGHTS_KEY
from sd2_clip.clip.verify_encoder import verify_encoder
from sd2_clip.sd2.errors import SD2ClipError
from sd2_clip.sd2.files.file_hash import file_digest
from sd2_clip.sd2.published_values import EncodedRows

pytestmark = pytest.mark.slow  # whole data sets and files

COLUMNS = range(0, 32, 2)


@pytest.fixture(scope="module")
def expected() -> EncodedRows:
    """What somebody would have published of the tiny encoder: ComfyUI's own encoding of ""."""
    encoded = load_file(tiny.GOLDEN / "encode.safetensors")
    [case] = [one for one in tiny.core_cases() if (one["text"], one["layer"]) == ("", None)]
    rows = encoded[f"{case['id']}.cond"][0, :2].double()
    return EncodedRows(
        columns=tuple(COLUMNS),
        rows=tuple(tuple(row[list(COLUMNS)].tolist()) for row in rows),
        norms=tuple(row.norm().item() for row in rows),
    )


def saved(tmp_path, change=lambda name, tensor: tensor, metadata=None):
    tensors = {name: change(name, tensor) for name, tensor in tiny.state_dict().items()}
    path = tmp_path / "encoder.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def noisy(amount):
    generator = torch.Generator().manual_seed(0)

    def change(name, tensor):
        if tensor.dim() < 2:
            return tensor
        values = tensor.float()
        return (values + amount * values.std() * torch.randn(values.shape, generator=generator)).to(
            tensor.dtype
        )

    return change


def verify(path, expected):
    return verify_encoder(path, expected, model_options=tiny.MODEL_OPTIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_real_weights_are_genuine_in_every_dtype(dtype, expected, tmp_path):
    found = verify(saved(tmp_path, lambda _, tensor: tensor.to(dtype)), expected)
    assert found.verdict == "genuine"
    if dtype != torch.bfloat16:
        assert found.distance < 1e-4  # the tiny encoder is stored in fp16
        assert found.precision == {torch.float32: "F32", torch.float16: "F16"}[dtype]


def test_weights_that_were_rounded_to_bf16_before_count_as_bf16(expected, tmp_path):
    found = verify(saved(tmp_path, lambda _, tensor: tensor.bfloat16().float()), expected)
    assert (found.detection.dtype, found.precision, found.verdict) == ("F32", "BF16", "genuine")
    assert found.distance > verify_module.TOLERANCES["F32"] / 10


def test_changed_weights_are_fine_tuned_by_so_much(expected, tmp_path):
    little = verify(saved(tmp_path, noisy(0.02)), expected)
    more = verify(saved(tmp_path, noisy(0.1)), expected)
    assert little.verdict == more.verdict == "fine-tuned"
    assert 0.01 < little.distance < more.distance < 0.8
    assert f"changed by {more.distance:.2%}" in more.describe()
    assert "no fault" in more.describe()


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("what", ["rows", "norms"])
def test_each_row_and_its_norm_count(row, what, expected, tmp_path):
    values = list(getattr(expected, what))
    values[row] = (
        tuple(value * 1.02 for value in values[row]) if what == "rows" else values[row] * 1.02
    )
    changed = EncodedRows(**{**vars(expected), what: tuple(values)})
    found = verify(saved(tmp_path), changed)
    assert found.verdict == "fine-tuned"
    assert found.distance == pytest.approx(0.02, rel=0.05)


def test_another_encoder_is_something_else(expected, tmp_path):
    path = layouts.save_safetensors(layouts.canonical_encoder(tiny.CONFIG), tmp_path / "x.sft")
    found = verify(path, expected)
    assert found.verdict == "other"
    assert "something else" in found.describe()


def test_a_file_that_calls_its_weights_random_is_cited(expected, tmp_path):
    told = verify(saved(tmp_path, metadata={RANDOM_WEIGHTS_KEY: "seed 2"}), expected).describe()
    assert "the file says that its weights are random" in told


def test_a_known_file_is_named_by_its_sha256(expected, tmp_path, monkeypatch):
    path = saved(tmp_path)
    assert "(not a known file)" in verify(path, expected).describe()
    monkeypatch.setitem(verify_module.KNOWN_FILES, file_digest(path), "tiny.safetensors")
    found = verify(path, expected)
    assert f"{file_digest(path)} (tiny.safetensors)" in found.describe()
    wrong = EncodedRows(expected.columns, expected.rows, (1.0, 1.0))
    assert "this machine computes it wrongly" in verify(path, wrong).describe()


def test_a_set_of_shards_has_no_sha256(expected, tmp_path):
    layouts.save_shards(tiny.state_dict(), tmp_path)
    found = verify(tmp_path, expected)
    assert (found.verdict, found.sha256) == ("genuine", None)
    assert "SHA-256" not in found.describe()


def test_it_says_what_the_rows_do_not_show(expected, tmp_path):
    told = verify(saved(tmp_path), expected).describe()
    assert "compared are the start and the end token, not layer 4, the projection" in told


def test_of_something_else_no_more_is_said(expected, tmp_path):
    path = layouts.save_safetensors(layouts.canonical_encoder(tiny.CONFIG), tmp_path / "x.sft")
    assert "compared are" not in verify(path, expected).describe()


def test_weights_that_are_not_finite_are_an_error(expected, tmp_path):
    def spoil(name, tensor):
        return torch.full_like(tensor, float("nan")) if name.endswith("0.mlp.fc1.bias") else tensor

    with pytest.raises(SD2ClipError, match="NaN"):
        verify(saved(tmp_path, spoil), expected)


def test_sd2s_own_rows_are_not_those_of_random_weights(tmp_path):
    """The published rows are 1024 wide, so the comparison needs an encoder of that width."""
    wide = {**layouts.TINY_CONFIG, "hidden_size": 1024, "projection_dim": 1024,
            "num_attention_heads": 16, "vocab_size": 49408}  # fmt: skip
    encoder = layouts.canonical_encoder(wide, dtype=torch.float16)
    path = layouts.save_safetensors(encoder, tmp_path / "wide.safetensors")
    found = verify_encoder(path, model_options={"clip_h_model_config": wide})
    assert found.verdict == "other"
    assert found.distance > 1.2


@pytest.mark.parametrize(("amount", "status"), [(0, 0), (0.1, 3), (30, 1)])
def test_the_command_returns_the_verdict_as_its_status(
    amount, status, expected, tmp_path, monkeypatch, capsys
):
    import argparse

    monkeypatch.setattr(verify_module, "verify_encoder", lambda path: verify(path, expected))
    path = saved(tmp_path, noisy(amount))
    assert verify_command.run(argparse.Namespace(file=path)) == status
    assert capsys.readouterr().out.startswith("Verdict:")
