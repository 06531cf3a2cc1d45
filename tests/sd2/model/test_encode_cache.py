"""Cached results must equal computed ones, whatever happens to the model."""

import contextlib
import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import tiny
import torch
from sd2_clip.sd2.model import encode_cache
from sd2_clip.sd2.model.text_model import KVCache
from sd2_clip.sd2.sd2_clip import SD2ClipModel


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


@pytest.fixture
def model() -> SD2ClipModel:
    return tiny.caching_text_encoder()


@pytest.fixture
def computed(model, monkeypatch) -> list[tuple[int, int]]:
    """(chunks, positions) of each call that the model really computes."""
    calls = []
    compute = model.clip_h.compute

    def recorded(x, pooled_at, kv_cache):
        calls.append(tuple(x.shape[:2]))
        return compute(x, pooled_at, kv_cache)

    monkeypatch.setattr(model.clip_h, "compute", recorded)
    return calls


def chunk(*ids: int) -> list[int]:
    return [49406, *ids, 49407] + [0] * (75 - len(ids))


def assert_right(model, chunks, pooled=None):
    """The model's result is that of a model without a cache."""
    uncached = copy.deepcopy(model.clip_h)
    uncached.setup = replace(uncached.setup, cache=None)
    pooled = len(chunks) if pooled is None else pooled
    expected = uncached.encode_chunks(chunks, pooled)
    found = model.clip_h.encode_chunks(chunks, pooled)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


LONG = list(range(300, 370))
EDITED = {
    "one token in the last third": [*LONG[:50], 7, *LONG[51:]],
    "a token less": [*LONG[:55], *LONG[56:]],
    "a token more": [*LONG[:55], 9, *LONG[55:]],
    "cut off": LONG[:40],
    "appended": [*LONG, 5, 6],
    "another first token": [8, *LONG[1:]],
}


@pytest.mark.parametrize("edited", EDITED.values(), ids=list(EDITED))
@pytest.mark.parametrize("layer", [None, -1, -4], ids=["penultimate", "last", "first"])
@pytest.mark.parametrize("pooled", [0, 1])
def test_an_edited_prompt_is_as_if_it_were_new(model, edited, layer, pooled):
    if layer is not None:
        model.clip_layer(layer)
    for ids in (LONG, edited, LONG):
        assert_right(model, [chunk(*ids)], pooled)


def test_a_change_behind_the_end_leaves_the_pooled_row_right(model):
    assert_right(model, [chunk(*LONG[:20])])
    assert_right(model, [[*chunk(*LONG[:20])[:-10], *range(500, 510)]])


def test_only_positions_from_the_edit_on_are_computed(model, computed):
    model.clip_h([chunk(*LONG)])
    model.clip_h([chunk(*EDITED["one token in the last third"])])
    assert computed == [(1, 77), (1, 77 - 51)]


def test_the_same_prompt_is_not_computed_again(model, computed):
    first = model.clip_h([chunk(*LONG), chunk(5)])
    again = model.clip_h([chunk(*LONG), chunk(5)])
    assert computed == [(2, 77)]
    torch.testing.assert_close(again, first, atol=0, rtol=0)


def test_the_empty_prompt_of_weights_is_computed_once(model, computed):
    for ids in ([5, 6], [7, 8, 9]):
        model.encode_token_weights({"h": [[(token, 1.2) for token in chunk(*ids)]]})
    assert computed == [(2, 77), (1, 77)]


def test_a_chunk_repeated_in_a_prompt_is_computed_once(model, computed):
    z, _ = model.clip_h.encode_chunks([chunk(5), chunk(6), chunk(6)], 1)
    assert computed == [(2, 77)]
    torch.testing.assert_close(z[1], z[2], atol=0, rtol=0)


def test_a_later_chunk_asked_for_again_with_its_pooled_row(model):
    assert_right(model, [chunk(5), chunk(*LONG)], pooled=1)
    assert_right(model, [chunk(*LONG)], pooled=1)


def test_vectors_are_distinguished_by_their_values(model):
    vector = torch.full((32,), 0.1)
    assert_right(model, [[49406, vector, *chunk()[1:-1]]])
    vector += 0.1
    assert_right(model, [[49406, vector, *chunk()[1:-1]]])


def test_layers_and_projection_are_distinguished(model):
    for options in ({"layer": -1}, {"layer": -3}, {"projected_pooled": False}, {"layer": -1}):
        model.set_clip_options(options)
        assert_right(model, [chunk(*LONG)])


def weight(model):
    return model.clip_h.transformer.text_model.encoder.layers[1].mlp.fc1.weight


def replace_parameter(model):
    layer = model.clip_h.transformer.text_model.encoder.layers[1]
    layer.mlp.fc1.weight = torch.nn.Parameter(weight(model) * 1.5, requires_grad=False)


def load(model):
    model.load_state_dict({name: t * 1.1 for name, t in model.state_dict().items()})


CHANGES = {
    "in place": lambda model: weight(model).mul_(1.5),
    "one number in place": lambda model: weight(model)[0].fill_(3.0),
    "through data": lambda model: weight(model).data.mul_(1.5),
    "data assigned": lambda model: setattr(weight(model), "data", weight(model).data * 1.5),
    "parameter replaced": replace_parameter,
    "loaded": load,
    "another dtype": lambda model: model.bfloat16(),
    "bias through data": lambda model: block(model).mlp.fc1.bias.data.add_(1),
    "norm through data": lambda model: block(model).layer_norm1.weight.data.mul_(2),
    "data transposed": lambda model: setattr(
        block(model).self_attn.q_proj.weight, "data", block(model).self_attn.q_proj.weight.data.t()
    ),
    "position table": lambda model: (
        model.clip_h.transformer.text_model.embeddings.position_embedding.weight.data[3].add_(1)
    ),
    "token table": lambda model: (
        model.clip_h.transformer.get_input_embeddings().weight.data[320].add_(1)
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_changed_weights_count_at_once(model, change):
    prompt = [chunk(320, 1125)]
    before, _ = model.clip_h(prompt)
    change(model)
    assert_right(model, prompt)
    assert not torch.equal(model.clip_h(prompt)[0], before)


def test_low_precision_of_autocast_is_not_cached(model):
    prompt = [chunk(320, 1125)]
    with torch.autocast("cpu", torch.bfloat16):
        low, _ = model.clip_h(prompt)
    assert_right(model, prompt)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.clip_h(prompt)[0], low, atol=0, rtol=0)


def block(model):
    return model.clip_h.transformer.text_model.encoder.layers[1]


class Wrapped(torch.nn.Module):
    """A layer in a layer, as those who train or quantise put it there."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def doubled(function):
    return lambda *arguments: 2 * function(*arguments)


def halved(module, arguments):
    return (arguments[0] / 2, *arguments[1:])


INTERVENTIONS = {
    "hook": lambda model: block(model).register_forward_hook(lambda *call: 2 * call[2]),
    "pre-hook": lambda model: block(model).mlp.register_forward_pre_hook(halved),
    "forward of a layer": lambda model: setattr(
        block(model).mlp.fc2, "forward", doubled(block(model).mlp.fc2.forward)
    ),
    "gelu of a layer": lambda model: setattr(
        block(model).mlp.fc1, "gelu", doubled(block(model).mlp.fc1.gelu)
    ),
    "layer in a layer": lambda model: setattr(
        block(model).mlp, "fc2", Wrapped(block(model).mlp.fc2)
    ),
}


@pytest.mark.parametrize("intervene", INTERVENTIONS.values(), ids=list(INTERVENTIONS))
def test_interventions_count_at_once(model, intervene):
    prompt = [chunk(320, 1125)]
    before, _ = model.clip_h(prompt)
    intervene(model)
    assert_right(model, prompt)
    assert not torch.equal(model.clip_h(prompt)[0], before)


def test_weights_in_training_are_computed_with_each_time(model, computed):
    weight(model).requires_grad_()
    for _ in range(2):
        model.clip_h([chunk(320)])
    assert len(computed) == 2


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("kind", ["meta", "without memory", "sparse", "made in inference mode"])
def test_weights_without_readable_memory_can_be_encoded_with(kind, model):
    projection = model.clip_h.transformer.text_projection
    ways = {
        "meta": lambda: projection.to("meta"),
        "without memory": lambda: projection.weight.untyped_storage().resize_(0),
        "sparse": lambda: setattr(
            projection,
            "weight",
            torch.nn.Parameter(projection.weight.to_sparse_csr(), requires_grad=False),
        ),
    }
    if kind == "made in inference mode":
        with torch.inference_mode():
            fc2 = block(model).mlp.fc2
            fc2.weight = torch.nn.Parameter(fc2.weight.clone(), requires_grad=False)
            model.clip_h.encode_chunks([chunk(5)], 0)
            fc2.weight[0].fill_(3)  # which nobody counts
            chunks = model.clip_h.read_chunks([chunk(5)], 0)
            expected = model.clip_h.compute(*model.clip_h.embed(chunks), KVCache())[0]
            found = model.clip_h.encode_chunks([chunk(5)], 0)[0]
            torch.testing.assert_close(found, expected)
        return
    before = model.clip_h.encode_chunks([chunk(5)], 0)[0]
    ways[kind]()
    for _ in range(2):
        torch.testing.assert_close(model.clip_h.encode_chunks([chunk(5)], 0)[0], before)


def test_a_hook_on_all_modules_counts(model):
    before, _ = model.clip_h([chunk(5)])
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output * 2 if isinstance(module, torch.nn.Linear) else None
    )
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(handle.remove)
        assert not torch.equal(model.clip_h([chunk(5)])[0], before)
    torch.testing.assert_close(model.clip_h([chunk(5)])[0], before)


def test_threads_share_a_cache(model):
    prompts = [[chunk(300 + number)] for number in range(12)]
    inner = model.clip_h
    expected = [inner.compute(*inner.embed(inner.read_chunks(p, 1)), KVCache())[0] for p in prompts]

    def encoded(number):
        with torch.no_grad():
            return number, model.clip_h(prompts[number])[0]

    with ThreadPoolExecutor(4) as pool:
        for number, found in pool.map(encoded, list(range(12)) * 20):
            torch.testing.assert_close(found, expected[number], atol=1e-5, rtol=0)


def test_weights_can_be_moved_out_of_memory_after_an_encode(model):
    model.clip_h([chunk(320)])
    weight(model).untyped_storage().resize_(0)  # as tools that offload do


def test_a_hook_is_called_each_time_and_leaves_no_trace(model):
    prompt = [chunk(320, 1125)]
    before, _ = model.clip_h(prompt)
    calls = []
    hook = block(model).register_forward_hook(lambda *call: calls.append(1) or 2 * call[2])
    for _ in range(2):
        model.clip_h(prompt)
    hook.remove()
    assert len(calls) == 2
    torch.testing.assert_close(model.clip_h(prompt)[0], before, atol=0, rtol=0)


def test_results_are_the_callers_to_change(model):
    expected, _ = model.clip_h([chunk(5)])
    model.clip_h([chunk(5)])[0].zero_()
    torch.testing.assert_close(model.clip_h([chunk(5)])[0], expected)


def test_a_copy_of_a_model_starts_with_an_empty_cache(model, computed):
    model.clip_h([chunk(5)])
    assert copy.deepcopy(model).clip_h.setup.cache._results == {}


def test_the_cache_is_bounded(model, monkeypatch):
    monkeypatch.setattr(encode_cache, "MAX_RESULTS", 3)
    monkeypatch.setattr(encode_cache, "MAX_PREFIXES", 2)
    for number in range(10):
        assert_right(model, [chunk(300 + number), chunk(*LONG[number:])])
    cache = model.clip_h.setup.cache
    assert (len(cache._results), len(cache._prefixes)) == (3, 2)


def test_a_trainer_gets_gradients(model):
    with torch.enable_grad():
        vector = torch.full((32,), 0.1, requires_grad=True)
        for _ in range(2):
            z, _ = model.clip_h([[49406, vector, *chunk()[1:-1]]])
            z.sum().backward()
    assert vector.grad is not None
