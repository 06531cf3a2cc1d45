"""Canonical names, and where OpenCLIP and transformers put the same tensors."""

import pytest
from model_shapes import TINY_CONFIG, openclip_text, transformers_text
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.state_dict_keys import (
    encoder_shapes,
    openclip_source,
    text_model_shapes,
    transformers_source,
)

CONFIG = load_config(TINY_CONFIG)
LAYERS = range(CONFIG.num_hidden_layers)


def test_canonical_names_and_shapes_are_transformers():
    written_out = transformers_text(TINY_CONFIG, projection=True)
    assert encoder_shapes(CONFIG) == written_out | {"logit_scale": ()}


@pytest.mark.parametrize(
    ("source_of", "written_out"),
    [(openclip_source, openclip_text), (transformers_source, transformers_text)],
)
def test_every_tensor_has_a_source_of_the_right_shape(source_of, written_out):
    there = {f"p.{name}": shape for name, shape in written_out(TINY_CONFIG).items()}
    inner = "" if source_of is openclip_source else "text_model."
    for canonical, shape in text_model_shapes(CONFIG, LAYERS).items():
        source = source_of(f"p.{inner}", canonical)
        assert there[source.key] in source.transform.source_shapes(shape)
