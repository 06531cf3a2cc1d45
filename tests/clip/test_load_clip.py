"""Every layout from file to conditioning, and what the loader says about it."""

import gc
import json
import weakref

import layouts
import pytest
import sd2_clip
import torch
from sd2_clip.clip import load_clip
from sd2_clip.clip.encode_text import encode_text
from sd2_clip.sd2.errors import NotSD2Error, OptionError, SD2ClipError
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from sd2_clip.sd2.sd2_clip import SD2ClipModel, build_text_encoder

OPTIONS = {"clip_h_model_config": layouts.TINY_CONFIG}
TEXT = "a photograph of an (astronaut:1.3) riding a horse"


@pytest.fixture(scope="module")
def reference() -> SD2ClipModel:
    """The encoder that every layout was written from."""
    return build_text_encoder(layouts.canonical_encoder(), model_options=OPTIONS)


def load(path, **arguments):
    return load_clip.load_clip(path, device="cpu", dtype="fp32", model_options=OPTIONS, **arguments)


@pytest.fixture
def file(tmp_path):
    return layouts.save_safetensors(layouts.canonical_encoder(), tmp_path / "sd2.safetensors")


@pytest.fixture
def short_file(tmp_path):
    encoder = layouts.diffusers(layouts.canonical_encoder())
    return layouts.save_safetensors(encoder, tmp_path / "model.safetensors")


@pytest.mark.parametrize("case", layouts.CASES, ids=lambda case: case.name)
def test_every_layout_gives_the_same_conditioning(case, reference, tmp_path):
    clip = load(layouts.write_case(case, tmp_path))
    tokens = clip.tokenize(TEXT)
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    expected, expected_pooled = reference.encode_token_weights(tokens)
    rounding = 1e-5 if case.dtype == torch.float32 else 5e-2
    torch.testing.assert_close(cond, expected, atol=rounding, rtol=0)
    if case.projection and not case.short:
        torch.testing.assert_close(pooled, expected_pooled, atol=rounding, rtol=0)
    assert pooled.isfinite().all()


def test_the_last_layer_of_a_short_file_is_its_penultimate_and_that_is_said(short_file, caplog):
    clip = load(short_file, layer="last")
    penultimate = load(short_file)
    torch.testing.assert_close(clip.encode(TEXT), penultimate.encode(TEXT))
    assert "the file has only 3" in caplog.text
    assert "layer 4, which SD2 does not use" in clip.cond_stage_model.source.describe()


def test_a_layer_set_later_on_a_short_file_is_said_too(short_file, caplog):
    clip = load(short_file)
    clip.clip_layer(-1)
    assert clip.encode(TEXT).isfinite().all()
    assert "the file has only 3" in caplog.text


def test_pooled_of_a_file_without_projection_is_the_unprojected_one(short_file, caplog):
    clip = load(short_file)
    tokens = clip.tokenize(TEXT)
    _, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    _, unprojected = clip.encode_from_tokens(tokens, return_pooled="unprojected")
    torch.testing.assert_close(pooled, unprojected)
    assert caplog.text.count("is not projected: the file has no layer 4") == 1


def test_weights_of_the_wanted_type_are_not_copied(file):
    clip = load(file)
    weight = clip.cond_stage_model.clip_h.transformer.text_model.final_layer_norm.weight
    with torch.no_grad():
        weight.fill_(0)  # a private mapping: the file must not see it
    fresh = load(file).cond_stage_model.clip_h.transformer.text_model.final_layer_norm.weight
    assert fresh.any()


@pytest.mark.parametrize("dtype", ["fp16", "bfloat16", torch.float16], ids=str)
def test_dtype_is_honoured(dtype, file):
    clip = load_clip.load_clip(file, device="cpu", dtype=dtype, model_options=OPTIONS)
    expected = {"fp16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype, dtype)
    types = {p.dtype for n, p in clip.cond_stage_model.named_parameters() if "logit" not in n}
    assert types == {expected}


@pytest.mark.parametrize(
    "arguments",
    [{"dtype": "int8"}, {"device": "tpu"}, {"paths": []}, {"paths": ["a", "b"]}],
    ids=str,
)
def test_an_option_that_cannot_be_is_an_error(arguments, file):
    with pytest.raises(OptionError):
        load_clip.load_clip(**{"paths": file, **arguments})


@pytest.mark.parametrize(
    ("layer", "expected"), [("penultimate", -2), ("last", -1)], ids=lambda value: str(value)
)
def test_load_checkpoint_honours_the_yamls_layer(layer, expected, file, tmp_path, reference):
    yaml = tmp_path / "v2-inference.yaml"
    yaml.write_text(
        "model:\n  params:\n    cond_stage_config:\n"
        "      target: ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder\n"
        f"      params: {{freeze: True, layer: {layer}}}\n"
    )
    clip = load_clip.load_checkpoint(yaml, file, device="cpu", dtype="fp32", model_options=OPTIONS)
    reference.clip_layer(expected)
    tokens = clip.tokenize(TEXT)
    torch.testing.assert_close(
        clip.encode_from_tokens(tokens), reference.encode_token_weights(tokens)[0]
    )
    reference.reset_clip_layer()


def test_load_checkpoint_needs_no_yaml(file):
    clip = sd2_clip.load_checkpoint(ckpt_path=file, device="cpu", model_options=OPTIONS)
    torch.testing.assert_close(clip.encode(TEXT), load(file).encode(TEXT))


def test_another_models_file_is_named(tmp_path):
    path = layouts.save_safetensors({"conv.weight": torch.zeros(3)}, tmp_path / "x.safetensors")
    with pytest.raises(NotSD2Error, match=r"x\.safetensors"):
        load(path)


def test_embeddings_come_from_the_hosts_folders(file, standalone, tmp_path):
    rows = torch.randn(2, layouts.TINY_CONFIG["hidden_size"])
    layouts.save_safetensors(
        {"emb_params": rows}, tmp_path / "models" / "embeddings" / "style.safetensors"
    )
    (chunk,) = load(file).tokenize("embedding:style")["h"]
    torch.testing.assert_close(chunk[1][0], rows[0])


def shared(clip, tensors, names):
    """Whether the handle computes with the very memory of *tensors*."""
    own = dict(clip.cond_stage_model.clip_h.transformer.named_parameters())
    return all(own[name].data_ptr() == tensors[name].data_ptr() for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_state_dict_in_memory_is_used_without_a_copy(dtype, file):
    encoder = layouts.canonical_encoder(dtype=dtype)
    clip = load_clip.load_clip(encoder, model_options=OPTIONS)
    assert shared(clip, encoder, set(encoder) - {"logit_scale"})
    rounding = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(clip.encode(TEXT), load(file).encode(TEXT), atol=rounding, rtol=0)


@pytest.mark.parametrize("case", layouts.CASES, ids=lambda case: case.name)
def test_every_layout_is_found_in_memory_as_in_a_file(case, tmp_path):
    from_file = load(layouts.write_case(case, tmp_path))
    checkpoint = open_checkpoint(from_file.cond_stage_model.source.detection.path)
    tensors = {name: tensor.clone() for name, tensor in checkpoint.read(checkpoint.tensors).items()}
    clip = load(tensors)
    assert torch.equal(clip.encode(TEXT), from_file.encode(TEXT))
    mine, files = clip.cond_stage_model.source, from_file.cond_stage_model.source
    assert (mine.detection.layout, mine.detection.missing) == (
        files.detection.layout,
        files.detection.missing,
    )
    assert mine.digest() == files.digest()


class Encoder(torch.nn.Module):
    """A module whose state dict has the names of transformers' CLIPTextModel."""

    def __init__(self, encoder):
        super().__init__()
        for name, tensor in encoder.items():
            *folders, leaf = name.split(".")
            at = self
            for folder in folders:
                if folder not in at._modules:
                    at.add_module(folder, torch.nn.Module())
                at = at._modules[folder]
            at.register_parameter(leaf, torch.nn.Parameter(tensor.clone()))


def test_a_module_in_memory_shares_its_weights_and_gets_no_gradients(file):
    module = Encoder(layouts.diffusers(layouts.canonical_encoder()))
    clip = load_clip.load_clip(module, model_options=OPTIONS)
    assert shared(clip, dict(module.named_parameters()), dict(module.named_parameters()))
    assert torch.equal(clip.encode(TEXT), load(file).encode(TEXT))
    assert not clip.encode(TEXT).requires_grad
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert "File:         Encoder in memory" in clip.cond_stage_model.source.describe()


def test_a_module_that_is_trained_further_changes_the_encoding():
    module = Encoder(layouts.canonical_encoder())
    clip = load_clip.load_clip(module, model_options=OPTIONS)
    before = clip.encode(TEXT)
    with torch.no_grad():
        module.text_model.final_layer_norm.bias.add_(1)
    torch.testing.assert_close(clip.encode(TEXT), before + 1, atol=1e-5, rtol=0)


def test_another_dtype_is_a_copy_and_leaves_the_tensors_alone():
    encoder = layouts.canonical_encoder()
    clip = load_clip.load_clip(encoder, dtype="fp16", model_options=OPTIONS)
    assert not shared(clip, encoder, ["text_model.final_layer_norm.weight"])
    assert encoder["text_model.final_layer_norm.weight"].dtype == torch.float32


def test_the_record_of_weights_in_memory_has_no_file_and_keeps_none_alive():
    encoder = layouts.canonical_encoder()
    [(_, options)] = encode_text(load(encoder), TEXT).conditioning
    weights = json.loads(options["sd2_clip"])["weights"]
    assert (weights["file"], weights["bytes"]) == ("a state dict in memory", None)
    assert json.loads(options["sd2_clip"].with_digests)["weights"]["tensors_sha256"] is None
    weight = weakref.ref(encoder.pop("text_model.final_layer_norm.weight"))
    gc.collect()
    assert weight() is None


def pipeline(**parts):
    return type("StableDiffusionPipeline", (), parts)()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, r"a state dict in memory: holds no tensors by name \(it is empty\)"),
        ({"a": 1, "b": [2]}, r"holds no tensors by name \(it holds int, list\)"),
        ({"state_dict": {"x": torch.zeros(2)}, "step": 3}, "its 'state_dict' does: pass that"),
        ({"x": torch.zeros(2)}, "a state dict in memory: no SD2 text encoder found"),
        (torch.nn.Linear(2, 2), "Linear in memory: no SD2 text encoder found"),
        (torch.nn.Linear(2, 2, device="meta"), "2 of 2 tensors have no data .*meta device"),
        (pipeline(text_encoder=1), "got a StableDiffusionPipeline. Pass its text_encoder"),
        (pipeline(), "got a StableDiffusionPipeline.$"),
        (None, "got a NoneType"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_what_is_not_an_encoder_in_memory_is_named(source, message):
    with pytest.raises(SD2ClipError, match=message):
        load(source)


def test_an_incomplete_state_dict_is_told_what_is_missing():
    encoder = layouts.canonical_encoder()
    del encoder["text_model.encoder.layers.1.mlp.fc1.weight"]
    with pytest.raises(SD2ClipError, match=r"1 tensors are missing .*Pass all tensors"):
        load(encoder)
