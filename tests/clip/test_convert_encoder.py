"""Every layout that is written, read back by this package and by transformers."""

import errno
import gc
import json
import logging
import os
import shutil

import layouts
import pytest
import torch
from model_shapes import SD2_CONFIG
from safetensors import safe_open
from safetensors.torch import load_file
from sd2_clip.clip.convert_encoder import convert_encoder
from sd2_clip.clip.load_clip import RANDOM_WEIGHTS_KEY, load_clip
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.errors import OptionError, SD2ClipError
from transformers import CLIPTextModel, CLIPTokenizer

pytestmark = pytest.mark.slow  # whole data sets and files

OPTIONS = {"clip_h_model_config": layouts.TINY_CONFIG}
TEXT = "a photograph of an astronaut riding a horse"
CASES = {case.name: case for case in layouts.CASES}
TARGETS = ("comfy", "diffusers", "openclip")
OUT = {"comfy": "out.safetensors", "openclip": "out.safetensors", "diffusers": "out"}


def convert(source, out, **options):
    return convert_encoder(source, out, config=load_config(layouts.TINY_CONFIG), **options)[1]


def load(path):
    return load_clip(path, device="cpu", dtype="fp32", model_options=OPTIONS)


@pytest.fixture
def file(tmp_path):
    return layouts.save_safetensors(layouts.canonical_encoder(), tmp_path / "sd2.safetensors")


@pytest.fixture
def short_file(tmp_path):
    encoder = layouts.diffusers(layouts.canonical_encoder())
    return layouts.save_safetensors(encoder, tmp_path / "short.safetensors")


# What each layout holds, and who reads it


@pytest.mark.parametrize("layout", TARGETS)
@pytest.mark.parametrize(
    "name",
    ["ldm", "ldm-ckpt", "ldm-fp16", "ldm-bf16", "openclip-full", "transformers-full",
     "old-clipsave", "sgm-without-projection", "views-of-one-storage", "diffusers-pipeline",
     "kohya", "flattened"],
)  # fmt: skip
def test_a_layout_loads_back_with_equal_results(name, layout, tmp_path):
    source = layouts.write_case(CASES[name], tmp_path)
    out = tmp_path / OUT[layout]
    if layout == "openclip" and CASES[name].short:
        with pytest.raises(OptionError, match="needs all 4 layers, and this file has 3"):
            convert(source, out, layout=layout)
        assert not out.exists()
        return
    convert(source, out, layout=layout)
    original, converted = load(source), load(out)
    strided = name == "views-of-one-storage"  # the product of other strides rounds differently
    tokens = original.tokenize(TEXT)
    cond, pooled = original.encode_from_tokens(tokens, return_pooled=True)
    again, pooled_again = converted.encode_from_tokens(tokens, return_pooled=True)
    torch.testing.assert_close(again, cond, atol=1e-6 if strided else 0, rtol=0)
    if layout != "diffusers":
        torch.testing.assert_close(pooled_again, pooled, atol=1e-6 if strided else 0, rtol=0)


def test_the_files_of_a_pipeline_are_those_that_diffusers_writes(file, tmp_path):
    weights = convert(file, tmp_path / "out", layout="diffusers")
    written = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.glob("out/*/*")}
    assert written == {
        "text_encoder/config.json", "text_encoder/model.safetensors",
        "tokenizer/vocab.json", "tokenizer/merges.txt",
        "tokenizer/tokenizer_config.json", "tokenizer/special_tokens_map.json",
    }  # fmt: skip
    expected = layouts.diffusers(layouts.canonical_encoder())
    assert load_file(weights).keys() == expected.keys()
    with safe_open(weights, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize(("variant", "dtype"), [(None, torch.float32), ("fp16", torch.float16)])
def test_transformers_loads_a_pipelines_encoder_without_a_warning(
    variant, dtype, file, tmp_path, caplog, recwarn
):
    out = tmp_path / "out"
    convert(file, out, layout="diffusers", variant=variant)
    with caplog.at_level(logging.WARNING):
        tokenizer = CLIPTokenizer.from_pretrained(out, subfolder="tokenizer")
        model, report = CLIPTextModel.from_pretrained(
            out, subfolder="text_encoder", variant=variant, output_loading_info=True
        )
    assert (caplog.text, list(recwarn)) == ("", [])
    assert not any(report.values()), report
    stored = load_file(out / "text_encoder" / f"model{'.fp16' if variant else ''}.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    ids = tokenizer(TEXT, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        encoded = model.float().train(False)(ids)
    clip = load(out)
    expected = clip.encode(TEXT)
    torch.testing.assert_close(encoded.last_hidden_state, expected, atol=1e-5, rtol=0)
    end = ids[0].tolist().index(49407)  # transformers pools here, the published eos_token_id or not
    torch.testing.assert_close(encoded.pooler_output[0], expected[0, end], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", TARGETS)
@pytest.mark.parametrize("dtype", ["auto", "fp32", "fp16", "bf16"])
def test_dtype_is_what_was_asked_for_or_the_files(dtype, layout, tmp_path):
    source = layouts.write_case(CASES["ldm-fp16"], tmp_path)
    weights = convert(source, tmp_path / OUT[layout], layout=layout, dtype=dtype)
    expected = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(dtype, torch.float16)
    assert {tensor.dtype for tensor in load_file(weights).values()} == {expected}


@pytest.mark.parametrize("layout", TARGETS)
def test_random_weights_stay_labelled(layout, tmp_path):
    source = tmp_path / "demo.safetensors"
    label = {RANDOM_WEIGHTS_KEY: "seed 2", "format": "pt"}
    layouts.save_file(layouts.canonical_encoder(), source, label)
    with safe_open(convert(source, tmp_path / OUT[layout], layout=layout), "pt") as opened:
        assert opened.metadata() == label


@pytest.mark.full_size
@pytest.mark.nightly
@pytest.mark.parametrize("layout", TARGETS)
def test_a_layout_of_real_size_loads_back_with_equal_results(layout, tmp_path):
    encoder = layouts.openclip(layouts.canonical_encoder(SD2_CONFIG, dtype=torch.float16))
    source = layouts.save_safetensors(encoder, tmp_path / "full.safetensors")
    convert_encoder(source, tmp_path / OUT[layout], layout=layout)
    original = load_clip(source, device="cpu").encode(TEXT)
    assert torch.equal(load_clip(tmp_path / OUT[layout], device="cpu").encode(TEXT), original)
    if layout == "diffusers":
        model = CLIPTextModel.from_pretrained(tmp_path / "out/text_encoder").float()
        ids = CLIPTokenizer.from_pretrained(tmp_path / "out/tokenizer")(
            TEXT, padding="max_length", return_tensors="pt"
        ).input_ids
        with torch.no_grad():
            torch.testing.assert_close(model(ids)[0], original, atol=1e-4, rtol=0)


@pytest.mark.oracle
@pytest.mark.filterwarnings("default")
def test_a_diffusers_pipeline_that_lost_its_encoder_gets_it_back(file, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    convert(file, tmp_path / "parts", layout="diffusers")
    blocks = {"block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 8}
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, **blocks,
        ),
        text_encoder=CLIPTextModel.from_pretrained(tmp_path / "parts/text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(tmp_path / "parts/tokenizer"),
        unet=diffusers.UNet2DConditionModel(
            sample_size=8, cross_attention_dim=32, attention_head_dim=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **blocks,
        ),
        scheduler=diffusers.DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    folder = tmp_path / "pipeline"
    pipeline.save_pretrained(folder)
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / name)
    convert(file, folder, layout="diffusers")
    again = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    encoded, _ = again.encode_prompt(TEXT, "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(encoded, load(folder).encode(TEXT), atol=1e-5, rtol=0)
    pictures = again(TEXT, num_inference_steps=2, height=16, width=16, output_type="np").images
    assert pictures.shape == (1, 16, 16, 3)
    gc.collect()  # diffusers leaves folders open, which would be reported in another test


@pytest.mark.oracle
@pytest.mark.full_size
def test_open_clip_without_its_image_half_loads_the_file_strictly(tmp_path):
    """As docs/bridges.md tells projects to do."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
    encoder = layouts.canonical_encoder(SD2_CONFIG, dtype=torch.float16)
    source = layouts.save_safetensors(encoder, tmp_path / "full.safetensors")
    convert_encoder(source, tmp_path / "openclip.safetensors", layout="openclip")
    with torch.device("meta"):
        model = open_clip.model.CLIP(**open_clip.get_model_config("ViT-H-14"))
    tensors = load_file(tmp_path / "openclip.safetensors")
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.startswith("visual.") for name in missing)
    del model.visual
    model.load_state_dict(tensors, assign=True)


# What is overwritten, and what is left after a failure


@pytest.mark.parametrize("layout", TARGETS)
def test_weights_are_overwritten_only_if_asked(layout, file, short_file, tmp_path):
    out = tmp_path / OUT[layout]
    weights = convert(file, out, layout=layout)
    before = weights.read_bytes()
    with pytest.raises(OptionError, match=r"already exists\. Choose another name, or add --force"):
        convert(file, out, layout=layout, dtype="fp16")
    assert weights.read_bytes() == before
    convert(file, out, layout=layout, dtype="fp16", overwrite=True)
    assert len(weights.read_bytes()) < len(before)


def test_a_pipeline_gets_an_encoder_and_keeps_all_else(file, tmp_path):
    out = tmp_path / "pipeline"
    for name in ("unet/config.json", "text_encoder/pytorch_model.bin", "model_index.json"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    convert(file, out, layout="diffusers")
    for name in ("unet/config.json", "text_encoder/pytorch_model.bin", "model_index.json"):
        assert (out / name).read_text() == name
    assert load(out).encode(TEXT).isfinite().all()


def test_another_config_of_a_pipeline_is_not_overwritten(file, tmp_path):
    out = tmp_path / "pipeline"
    (out / "text_encoder").mkdir(parents=True)
    (out / "text_encoder/config.json").write_text('{"num_hidden_layers": 12}')
    with pytest.raises(OptionError, match=r"config\.json already exists"):
        convert(file, out, layout="diffusers")
    assert json.loads((out / "text_encoder/config.json").read_text()) == {"num_hidden_layers": 12}
    convert(file, out, layout="diffusers", overwrite=True)
    assert json.loads((out / "text_encoder/config.json").read_text())["num_hidden_layers"] == 3


def test_variants_share_a_folder(file, tmp_path):
    out = tmp_path / "out"
    convert(file, out, layout="diffusers")
    assert convert(file, out, layout="diffusers", variant="fp16").name == "model.fp16.safetensors"
    assert load(out).encode(TEXT).isfinite().all()


@pytest.mark.parametrize("layout", TARGETS)
def test_a_file_can_be_converted_over_itself(layout, file, tmp_path):
    source = convert(file, tmp_path / OUT[layout], layout=layout)
    expected = load(file).encode(TEXT)
    convert(source, tmp_path / OUT[layout], layout=layout, overwrite=True)
    assert torch.equal(load(tmp_path / OUT[layout]).encode(TEXT), expected)


def test_a_disk_that_fills_up_leaves_no_weights_and_the_next_run_completes(
    file, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    replaced = os.replace

    def full(source, target):
        if str(target).endswith(".safetensors"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(SD2ClipError, match="No space left"):
            convert(file, out, layout="diffusers")
    assert [p.name for p in (out / "text_encoder").iterdir()] == ["config.json"]
    with pytest.raises(SD2ClipError, match="no model file"):
        load(out)
    convert(file, out, layout="diffusers")  # its own small files are not in the way
    assert load(out).encode(TEXT).isfinite().all()


def test_the_weights_are_written_last(file, tmp_path, monkeypatch):
    """So that a process that is killed leaves no folder that looks complete."""
    written = []
    replaced = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (written.append(b.name), replaced(a, b)))
    convert(file, tmp_path / "out", layout="diffusers")
    assert written[-1] == "model.safetensors"
    assert len(written) == 6


def test_a_file_that_holds_no_encoder_leaves_no_folder(tmp_path):
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(SD2ClipError):
        convert(tmp_path / "page.safetensors", tmp_path / "out", layout="diffusers")
    assert not (tmp_path / "out").exists()


# Options that do not fit


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("out", {}, r"must end in \.safetensors"),
        ("out.bin", {"layout": "openclip"}, r"must end in \.safetensors"),
        ("out.safetensors", {"layout": "diffusers"}, "Give the name of a folder"),
        ("out.safetensors", {"variant": "fp16"}, "layout diffusers; leave it out"),
        ("out", {"layout": "diffusers", "variant": "fp16", "dtype": "fp32"}, "cannot hold fp32"),
        ("out", {"layout": "diffusers", "variant": "ema"}, "'ema' is unknown"),
        ("out.safetensors", {"layout": "onnx"}, "'onnx' is unknown"),
    ],
)
def test_options_that_do_not_fit_are_refused(out, options, message, file, tmp_path):
    with pytest.raises(OptionError, match=message):
        convert(file, tmp_path / out, **options)
    assert not (tmp_path / out).exists()
