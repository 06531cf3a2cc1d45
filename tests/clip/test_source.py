"""What a text encoder's source says: of the file, of its missing parts, and of its digest."""

import copy
from dataclasses import replace
from pathlib import Path

import layouts
import pytest
import torch
from sd2_clip.clip.load_clip import RANDOM_WEIGHTS_KEY, load_clip
from sd2_clip.clip.source import EncoderSource, placeholders

OPTIONS = {"clip_h_model_config": layouts.TINY_CONFIG}


def source_of(path: Path, **arguments: str) -> EncoderSource:
    clip = load_clip(path, device="cpu", dtype="fp32", model_options=OPTIONS, **arguments)
    source = clip.cond_stage_model.source
    assert isinstance(source, EncoderSource)
    return source


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return layouts.save_safetensors(layouts.canonical_encoder(), tmp_path / "sd2.safetensors")


@pytest.fixture
def short_file(tmp_path: Path) -> Path:
    encoder = layouts.diffusers(layouts.canonical_encoder())
    return layouts.save_safetensors(encoder, tmp_path / "model.safetensors")


def test_a_complete_file_has_no_placeholders(file):
    source = source_of(file)
    assert source.placeholder_layers == frozenset()
    assert not source.placeholder_projection
    assert "Not in file" not in source.describe()


def test_missing_parts_of_a_file_are_described(short_file):
    source = source_of(short_file)
    assert source.placeholder_layers == {3}
    assert source.placeholder_projection
    assert source.describe().splitlines()[-3:] == [
        "Loaded:       as float32, encodes on cpu",
        "Not in file:  layer 4, which SD2 does not use; layer 3's states stand in for it",
        "Not in file:  text projection, which SD2 does not use; pooled is not projected",
    ]


@pytest.mark.parametrize(
    ("products", "text"),
    [
        (torch.bfloat16, "with products in bfloat16"),
        (torch.float32, "with products in float32: this CPU has no bfloat16 instructions"),
    ],
)
def test_what_bf16_means_on_this_cpu_is_described(products, text, file):
    source = source_of(file)
    placement = replace(source.placement, dtype=torch.bfloat16, product_dtype=products)
    loaded = replace(source, placement=placement).describe().splitlines()[-1]
    assert loaded == f"Loaded:       as bfloat16, encodes on cpu, {text}"


def test_a_device_that_does_not_exist_is_described(file, standalone):
    clip = load_clip(file, device="gpu:9", dtype="fp32", model_options=OPTIONS)
    description = clip.cond_stage_model.source.describe()
    assert "Note:         device gpu:9 does not exist" in description


def test_random_weights_are_described(tmp_path, caplog):
    from safetensors.torch import save_file

    path = tmp_path / "demo.safetensors"
    save_file(layouts.canonical_encoder(), path, {RANDOM_WEIGHTS_KEY: "seed 2"})
    assert "RANDOM WEIGHTS" in source_of(path).describe()
    assert "RANDOM WEIGHTS" in caplog.text


def test_digest_depends_on_the_weights_alone(file, tmp_path):
    same = layouts.write_case(next(c for c in layouts.CASES if c.name == "ldm-ckpt"), tmp_path)
    other = layouts.save_safetensors(layouts.canonical_encoder(seed=1), tmp_path / "o.safetensors")
    assert source_of(file).digest() == source_of(same).digest() != source_of(other).digest()


def test_a_file_that_was_changed_after_loading_has_no_digest(file):
    source = source_of(file)
    layouts.save_safetensors({"x": torch.zeros(3)}, file)
    assert "changed after it was loaded" in source.digest()


def test_a_file_that_was_removed_after_loading_has_no_digest(file):
    source = source_of(file)
    file.unlink()
    assert "changed after it was loaded" in source.digest()


def test_a_digest_that_was_taken_stays(file):
    source = source_of(file)
    digest = source.digest()
    file.unlink()
    assert source.digest() == digest


def test_the_weights_can_be_read_again(short_file):
    clip = load_clip(short_file, device="cpu", dtype="fp16", model_options=OPTIONS)
    again = clip.cond_stage_model.source.read()
    own = clip.cond_stage_model.clip_h.transformer.state_dict()
    assert set(again) == {*own, "logit_scale"}
    for name, tensor in own.items():
        torch.testing.assert_close(again[name], tensor, atol=0, rtol=0)


def test_a_copied_encoder_shares_its_source(file):
    source = source_of(file)
    assert copy.deepcopy(source) is source


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ((), (frozenset(), False)),
        (("text_model.encoder.layers.23",), (frozenset({23}), False)),
        (("text_projection.weight", "logit_scale"), (frozenset(), True)),
    ],
    ids=["nothing", "a layer", "projection and scale"],
)
def test_placeholders_among_added_names(added, expected):
    assert placeholders(added, 24) == expected
