"""Configs as they came with SD 2.x, with others, and spoiled ones."""

import pytest
from sd2_clip.sd2.detection.ldm_config import LdmTextEncoder, read_ldm_config
from sd2_clip.sd2.errors import NotSD2Error, OptionError, SD2ClipError, UnreadableFileError

LDM = """\
model:
  base_learning_rate: 1.0e-4
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    parameterization: "v"
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {context_dim: 1024}
    cond_stage_config:
      target: ldm.modules.encoders.modules.%s
      params: %s
"""

SGM = """\
model:
  target: sgm.models.diffusion.DiffusionEngine
  params:
    conditioner_config:
      target: sgm.modules.GeneralConditioner
      params:
        emb_models:
          - is_trainable: False
            input_key: txt
            target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder
            params:
              freeze: true
              layer: penultimate
"""

SDXL = """\
model:
  params:
    conditioner_config:
      params:
        emb_models:
          - target: sgm.modules.encoders.modules.FrozenCLIPEmbedder
            params: {layer: hidden, layer_idx: 11}
          - target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2
            params: {arch: ViT-bigG-14, layer: penultimate}
          - target: sgm.modules.encoders.modules.ConcatTimestepEmbedderND
"""

REFINER = """\
model:
  params:
    conditioner_config:
      params:
        emb_models:
          - target: sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2
            params: {arch: ViT-bigG-14, layer: penultimate}
"""

OURS = "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder"


def written(tmp_path, text):
    path = tmp_path / "v2-inference.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ('{freeze: True, layer: "penultimate"}', LdmTextEncoder(OURS, "penultimate")),
        ("{freeze: True}", LdmTextEncoder(OURS, "last")),
        ("{}", LdmTextEncoder(OURS, "last")),
        ("", LdmTextEncoder(OURS, "last")),
        ("{freeze: false, layer: last}", LdmTextEncoder(OURS, "last", freeze=False)),
        ("{layer: hidden, layer_idx: -3}", LdmTextEncoder(OURS, "hidden", -3)),
        ("{layer: penultimate, layer_idx: -1}", LdmTextEncoder(OURS, "penultimate", -1)),
        ("{layer: penultimate, version: laion2b_s32b_b79k, max_length: 77}",
         LdmTextEncoder(OURS, "penultimate")),
    ],
    ids=["as-shipped", "default-layer", "empty", "absent", "trainable", "hidden", "layer-idx",
         "with-more"],
)  # fmt: skip
def test_ldm_config_says_which_layer(params, expected, tmp_path):
    path = written(tmp_path, LDM % ("FrozenOpenCLIPEmbedder", params))
    assert read_ldm_config(path) == expected


def test_sgm_config_nests_its_embedder(tmp_path):
    found = read_ldm_config(written(tmp_path, SGM))
    assert (found.target, found.layer) == (
        "sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "penultimate",
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (LDM % ("FrozenCLIPEmbedder", "{}"), "Stable Diffusion 1.x"),
        (LDM % ("BERTEmbedder", "{}"), "BERT"),
        (LDM % ("SomeEmbedder", "{}"), "SomeEmbedder"),
        (LDM % ("FrozenOpenCLIPEmbedder", "{arch: ViT-g-14}"), "ViT-g-14"),
        ("model: {params: {cond_stage_config: __is_unconditional__}}", "__is_unconditional__"),
        ("model: {params: {unet_config: {}}}", "no text encoder"),
        (SDXL, "SDXL|ViT-bigG"),
        (REFINER, "ViT-bigG"),
    ],
    ids=["sd1", "bert", "unknown", "vit-g", "unconditional", "none", "sdxl", "refiner"],
)
def test_other_models_are_named(text, named, tmp_path):
    with pytest.raises(NotSD2Error, match=named):
        read_ldm_config(written(tmp_path, text))


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ("{layer: pooled}", "pooled"),
        ("{layer: [1]}", "layer"),
        ("{layer: hidden}", "layer_idx"),
        ("{layer: hidden, layer_idx: 11}", "11"),
        ("{layer: hidden, layer_idx: -25}", "-25"),
        ("{layer: hidden, layer_idx: true}", "True"),
        ("{freeze: sometimes}", "sometimes"),
        ("{max_length: 248}", "248"),
        ("[1, 2]", "params"),
    ],
)
def test_values_that_cannot_be_honoured_are_errors(params, named, tmp_path):
    with pytest.raises(OptionError, match=named):
        read_ldm_config(written(tmp_path, LDM % ("FrozenOpenCLIPEmbedder", params)))


@pytest.mark.parametrize(
    "text",
    ["", "- a list", "model: [", "just words", "model: {}", "model: {params: 3}", "a: &a [*a]",
     "\x00\x01", "!!python/object/apply:os.getcwd []", "a: 2001-99-99", "[" * 400],
    ids=["empty", "list", "broken", "words", "no-params", "params-number", "cycle", "binary",
         "python-object", "bad-date", "deep"],
)  # fmt: skip
def test_other_files_are_unreadable(text, tmp_path):
    with pytest.raises(UnreadableFileError, match=r"v2-inference\.yaml"):
        read_ldm_config(written(tmp_path, text))


def test_missing_file_is_unreadable(tmp_path):
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read_ldm_config(tmp_path / "nothing.yaml")


def test_a_checkpoint_given_as_config_is_said_to_be_too_large(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_bytes(b"\0" * (2 << 20))
    with pytest.raises(UnreadableFileError, match="checkpoint"):
        read_ldm_config(path)


def test_message_stays_short_where_aliases_multiply(tmp_path):
    text = "a0: &a0 [x, x]\n"
    for level in range(1, 30):
        text += f"a{level}: &a{level} [*a{level - 1}, *a{level - 1}]\n"
    text += LDM % ("FrozenOpenCLIPEmbedder", "{arch: *a29}")
    with pytest.raises(SD2ClipError) as caught:
        read_ldm_config(written(tmp_path, text))
    assert len(str(caught.value)) < 500
