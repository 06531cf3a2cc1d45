"""Weights that a download left empty are found by samples, and tensors that may be zero pass."""

import pytest
import torch
from layouts import (
    CASES,
    TINY_CONFIG,
    canonical_encoder,
    diffusers,
    openclip,
    save_pickle,
    save_safetensors,
    write_case,
)
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.detect import detect
from sd2_clip.sd2.errors import BrokenEncoderError, SD2ClipError, UnreadableFileError

CONFIG = load_config(TINY_CONFIG)
TABLE = "text_model.embeddings.token_embedding.weight"
LAYER = "text_model.encoder.layers.1."

PARTS = {
    "a norm": (f"{LAYER}layer_norm2.weight", slice(None)),
    "the final norm": ("text_model.final_layer_norm.weight", slice(None)),
    "the token table": (TABLE, slice(None)),
    "the end of the token table": (TABLE, slice(40000, None)),
    "the middle of the token table": (TABLE, slice(20000, 30000)),
    "the position table": ("text_model.embeddings.position_embedding.weight", slice(None)),
    "the middle third of a matrix": (f"{LAYER}mlp.fc1.weight", slice(43, 86)),
    "the end of a matrix": (f"{LAYER}self_attn.v_proj.weight", slice(16, None)),
    "a matrix of the last layer": ("text_model.encoder.layers.3.mlp.fc2.weight", slice(None)),
}


@pytest.mark.parametrize("part", PARTS)
def test_an_empty_weight_is_named(tmp_path, part):
    name, rows = PARTS[part]
    encoder = canonical_encoder()
    encoder[name][rows] = 0
    path = save_safetensors(encoder, tmp_path / "empty.safetensors")
    with pytest.raises(BrokenEncoderError, match="download is incomplete") as caught:
        detect(path, CONFIG)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_an_empty_norm_of_any_type_is_named(tmp_path, dtype):
    encoder = {name: tensor.to(dtype) for name, tensor in canonical_encoder().items()}
    encoder[f"{LAYER}layer_norm1.weight"].zero_()
    path = save_safetensors(encoder, tmp_path / "empty.safetensors")
    with pytest.raises(BrokenEncoderError, match=r"layers\.1\.layer_norm1\.weight' is all zeros"):
        detect(path, CONFIG)


def test_an_empty_third_of_openclips_stacked_projection_is_named(tmp_path):
    encoder = openclip(canonical_encoder())
    encoder["transformer.resblocks.2.attn.in_proj_weight"][32:64] = 0
    path = save_pickle({"state_dict": encoder}, tmp_path / "empty.ckpt")
    with pytest.raises(BrokenEncoderError, match=r"'transformer\.resblocks\.2\.attn\.in_proj_w"):
        detect(path, CONFIG)


@pytest.mark.parametrize("layers", [[0], [1, 2], [0, 1, 2, 3]], ids=str)
def test_empty_blocks_are_named_by_their_first_tensor(tmp_path, layers):
    encoder = canonical_encoder()
    for name, tensor in encoder.items():
        if any(f".layers.{layer}." in name for layer in layers):
            tensor.zero_()
    path = save_safetensors(encoder, tmp_path / "empty.safetensors")
    with pytest.raises(BrokenEncoderError, match=rf"layers\.{layers[0]}\.layer_norm1.*is all zero"):
        detect(path, CONFIG)


def half_empty(path):
    """What is left where a download of known size was interrupted: the second half is zeros."""
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))
    return path


@pytest.mark.parametrize("case", [c for c in CASES if c.save in ("safetensors", "zip", "legacy")],
                         ids=lambda case: case.name)  # fmt: skip
def test_a_download_with_half_of_its_contents_is_refused(tmp_path, case):
    path = half_empty(write_case(case, tmp_path))
    with pytest.raises(SD2ClipError) as caught:
        detect(path, CONFIG)
    # A zip's directory is at its end, and gone. The old format lists its storages before their
    # data, by keys that are addresses: with luck, the list is in the half that is there.
    expected = {
        "safetensors": BrokenEncoderError,
        "legacy": (BrokenEncoderError, UnreadableFileError),
    }
    assert isinstance(caught.value, expected.get(case.save, UnreadableFileError))
    assert "ownload" in str(caught.value) or "damaged" in str(caught.value)


def test_a_half_download_of_the_encoder_alone_names_the_table_in_which_it_ends(tmp_path):
    encoder = diffusers(canonical_encoder())
    path = half_empty(save_safetensors(encoder, tmp_path / "half.safetensors"))
    with pytest.raises(BrokenEncoderError, match=r"token_embedding\.weight' is zero around value"):
        detect(path, CONFIG)


def test_biases_a_projection_and_a_scale_may_be_zero(tmp_path):
    encoder = canonical_encoder()
    for name, tensor in encoder.items():
        if name.endswith((".bias", "text_projection.weight", "logit_scale")):
            tensor.zero_()
    detection = detect(save_safetensors(encoder, tmp_path / "zero.safetensors"), CONFIG)
    assert detection.num_layers == 4
    assert any("projection is a placeholder" in warning for warning in detection.warnings)


def test_rows_of_tokens_that_were_never_seen_and_pruned_rows_may_be_zero(tmp_path):
    encoder = canonical_encoder()
    encoder[TABLE][188:256] = 0
    encoder[TABLE][0] = 0
    encoder[f"{LAYER}mlp.fc1.weight"][::2] = 0
    path = save_safetensors(encoder, tmp_path / "sparse.safetensors")
    assert detect(path, CONFIG).num_layers == 4
