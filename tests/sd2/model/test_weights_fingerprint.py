"""Detecting changed weights, directly; what relies on it is tested beside the cache and oneDNN."""

import copy

import pytest
import tiny
import torch
from sd2_clip.sd2.model.weights_fingerprint import (
    WatchedLayer,
    WeightsFingerprint,
    is_altered,
    last_event,
    state_of,
)


@pytest.fixture
def module() -> torch.nn.Module:
    transformer: torch.nn.Module = tiny.text_encoder().clip_h.transformer
    return transformer


def last_block(module):
    return module.text_model.encoder.layers[-1]


def test_an_unchanged_module_matches(module):
    fingerprint = WeightsFingerprint(module)
    module.state_dict()
    assert fingerprint.matches(module)


def test_another_module_with_equal_weights_does_not_match(module):
    assert not WeightsFingerprint(module).matches(copy.deepcopy(module))


CHANGES = {
    "parameter swapped": lambda module: last_block(module).mlp.fc2._parameters.update(
        bias=torch.nn.Parameter(torch.zeros(32), requires_grad=False)  # as torch.func does
    ),
    "block inserted": lambda module: module.text_model.encoder.layers.insert(
        0, torch.nn.Identity()
    ),
    "block replaced": lambda module: module.text_model.encoder.layers.__setitem__(
        0, torch.nn.Identity()
    ),
    "block dropped": lambda module: module.text_model.encoder.layers.pop(0),
    "weight in place": lambda module: last_block(module).mlp.fc2.weight.data.mul_(2),
    "bias in place": lambda module: last_block(module).mlp.fc2.bias.data.add_(1),
    "unfrozen": lambda module: last_block(module).requires_grad_(),
    "hook": lambda module: last_block(module).register_forward_hook(lambda *call: None),
    "method replaced": lambda module: setattr(last_block(module), "forward_at", print),
    "layer replaced": lambda module: setattr(last_block(module), "mlp", torch.nn.Identity()),
    "layer added": lambda module: last_block(module).mlp.add_module("extra", torch.nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_module_does_not_match(change, module):
    fingerprint = WeightsFingerprint(module)
    change(module)
    assert not fingerprint.matches(module)


def test_reading_a_weight_counts_and_computing_with_it_does_not(module):
    before = last_event()
    module.state_dict()
    module.text_model.with_positions(torch.zeros(1, 3, 32))
    last_block(module).layer_norm1(torch.zeros(1, 3, 32))
    last_block(module).mlp(torch.zeros(1, 3, 32))
    assert last_event() == before
    last_block(module).mlp.fc1.bias  # noqa: B018
    assert last_event() != before


def test_layers_that_note_nothing_are_not_relied_on(module):
    last_block(module).mlp.fc1 = torch.nn.Linear(32, 128).requires_grad_(False)
    assert is_altered(module)


def test_a_layer_that_says_so_is_not_relied_on(module, monkeypatch):
    patched = False

    class Layer(WatchedLayer):
        def is_ordinary(self):
            return not patched

    last_block(module).extra = Layer()
    fingerprint = WeightsFingerprint(module)
    assert fingerprint.matches(module)
    assert not is_altered(module)
    patched = True
    assert not fingerprint.matches(module)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (torch.zeros(3), True),
        (torch.nn.Parameter(torch.zeros(3), requires_grad=False), True),
        (torch.nn.Parameter(torch.zeros(3)), False),
        (torch.zeros(3, device="meta"), False),
        (torch.zeros(0), False),
        (torch.zeros(3).to_sparse(), False),
    ],
    ids=["tensor", "frozen parameter", "in training", "meta", "no memory", "sparse"],
)
def test_only_frozen_values_on_the_cpu_have_a_state(tensor, expected):
    assert (state_of(tensor) is not None) == expected


def test_a_module_with_a_hook_or_in_training_is_altered(module):
    assert not is_altered(module)
    hook = last_block(module).register_forward_pre_hook(lambda *call: None)
    assert is_altered(module)
    hook.remove()
    assert not is_altered(module)
    module.requires_grad_()
    assert is_altered(module)
