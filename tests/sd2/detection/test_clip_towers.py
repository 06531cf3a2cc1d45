"""Towers are found by the names of their blocks and embeddings, whatever precedes them."""

import pytest
from model_shapes import (
    SD2_CONFIG,
    openclip_text,
    openclip_vision,
    prefixed,
    transformers_text,
    transformers_vision,
)
from sd2_clip.sd2.detection.clip_towers import Tower, find_towers
from sd2_clip.sd2.files.checkpoint import TensorInfo


def towers_of(shapes):
    return find_towers({name: TensorInfo(shape, "F32") for name, shape in shapes.items()})


@pytest.mark.parametrize("prefix", ["", "module.", "a.b."])
@pytest.mark.parametrize(
    ("text", "style", "inner"),
    [(openclip_text, "openclip", ""), (transformers_text, "transformers", "text_model.")],
)
def test_a_text_tower_is_sized_by_its_tensors(text, style, inner, prefix):
    (tower,) = towers_of(prefixed(prefix, text(SD2_CONFIG)))
    assert tower == Tower(style, prefix + inner, 24, 1024, 49408, 77, is_vision=False)


@pytest.mark.parametrize("vision", [openclip_vision, transformers_vision])
def test_a_vision_tower_is_told_from_a_text_tower(vision):
    (tower,) = towers_of(vision())
    assert (tower.is_vision, tower.blocks, tower.width, tower.vocabulary) == (True, 32, 1280, None)


def test_blocks_of_modules_with_longer_names_are_not_a_tower():
    assert towers_of({"my_transformer.resblocks.0.ln_1.weight": (1024,)}) == ()


def test_an_embedding_without_blocks_is_a_tower_of_none():
    (tower,) = towers_of({"embedder.model.token_embedding.weight": (49408, 1024)})
    assert (tower.prefix, tower.blocks, tower.width) == ("embedder.model.", 0, 1024)
