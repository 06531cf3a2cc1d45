"""The text tower: what it computes for which layers and positions, and with cached keys."""

import pytest
import tiny
import torch
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.model import ops
from sd2_clip.sd2.model.text_model import Attention, CLIPTextModel, KVCache

LENGTH, WIDTH = 9, tiny.CONFIG["hidden_size"]
POOLED_AT = torch.tensor([4, 8])
X = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))
NO_POOLED = torch.zeros(0, dtype=torch.long)


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> CLIPTextModel:
    transformer = tiny.text_encoder().clip_h.transformer
    assert isinstance(transformer, CLIPTextModel)
    return transformer


@pytest.fixture
def computed(model, monkeypatch) -> list[int]:
    """The number of each block that is computed for all positions, in order."""
    calls: list[int] = []
    for number, block in enumerate(model.text_model.encoder.layers):
        forward = block.forward

        def recorded(x, kv_cache, *, number=number, forward=forward):
            calls.append(number)
            return forward(x, kv_cache)

        monkeypatch.setattr(block, "forward", recorded)
    return calls


def test_blocks_above_the_requested_layers_are_not_computed(model, computed):
    states, pooled = model.text_model(X, [0, 2], NO_POOLED, KVCache())
    assert computed == [0, 1, 2]
    assert sorted(states) == [0, 2]
    assert pooled.shape == (0, WIDTH)


def test_the_last_block_is_computed_at_the_pooled_positions_only(model, computed):
    _, pooled = model.text_model(X, [2], POOLED_AT, KVCache())
    assert computed == [0, 1, 2]
    states, same = model.text_model(X, [3], POOLED_AT, KVCache())
    assert computed == [0, 1, 2, 0, 1, 2, 3]
    torch.testing.assert_close(pooled, states[3][[0, 1], POOLED_AT])
    torch.testing.assert_close(pooled, same)


def test_the_first_sequences_can_be_pooled_alone(model):
    _, both = model.text_model(X, [2], POOLED_AT, KVCache())
    _, first = model.text_model(X, [2], POOLED_AT[:1], KVCache())
    torch.testing.assert_close(first, both[:1])


def test_a_position_does_not_depend_on_later_ones(model):
    changed = X.clone()
    changed[:, 5:] += 1
    states, _ = model.text_model(X, [3], NO_POOLED, KVCache())
    after, _ = model.text_model(changed, [3], NO_POOLED, KVCache())
    torch.testing.assert_close(after[3][:, :5], states[3][:, :5])
    assert not torch.allclose(after[3][:, 5], states[3][:, 5])


@pytest.mark.parametrize("length", [1, 4, LENGTH - 1])
@pytest.mark.parametrize("output_layers", [[2], [3]], ids=str)
def test_positions_after_cached_ones_are_as_without_a_cache(model, length, output_layers):
    pooled_at = torch.tensor([8, 8])
    first = KVCache(keep=True)
    model.text_model(X, output_layers, pooled_at, first)
    changed = X.clone()
    changed[:, length:] *= -1
    expected, expected_pooled = model.text_model(changed, output_layers, pooled_at, KVCache())
    cached = KVCache(length, first.blocks, keep=True)
    found, found_pooled = model.text_model(changed[:, length:], output_layers, pooled_at, cached)
    for layer in output_layers:
        torch.testing.assert_close(found[layer], expected[layer][:, length:], atol=1e-5, rtol=0)
    torch.testing.assert_close(found_pooled, expected_pooled, atol=1e-5, rtol=0)
    assert [keys.shape for keys, _ in cached.blocks] == [X.shape] * 4


def test_keys_and_values_are_kept_only_on_request(model):
    kv_cache = KVCache()
    model.text_model(X, [3], NO_POOLED, kv_cache)
    assert kv_cache.blocks == []


def test_attention_at_one_position_is_that_of_all_positions():
    torch.manual_seed(0)
    attention = Attention(load_config(tiny.CONFIG), ops, device="cpu", dtype=torch.float32)
    everywhere = attention(X, KVCache())
    found = attention.forward_at(X, POOLED_AT, KVCache())
    torch.testing.assert_close(found, everywhere[[0, 1], POOLED_AT])


def test_the_token_table_can_be_replaced():
    model = tiny.text_encoder().clip_h.transformer
    table = torch.nn.Embedding(3, WIDTH)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table
    assert model.text_model.embeddings.token_embedding is table
