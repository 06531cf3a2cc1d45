"""The layers used outside ComfyUI: fast where torch can, and the same everywhere."""

import copy

import pytest
import torch
from sd2_clip.sd2.model import onednn, ops

ROWS = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def linear() -> ops.Linear:
    torch.manual_seed(0)
    return ops.Linear(32, 48).requires_grad_(False)


@pytest.fixture
def fused_calls(monkeypatch):
    """Counts the calls of oneDNN's fused product; None on a machine that has none."""
    product = onednn.linear_pointwise()
    if product is None:
        pytest.skip("this torch has no fused oneDNN product")
    calls = []

    def counted(*arguments):
        calls.append(arguments[3])
        return product(*arguments)

    monkeypatch.setattr(onednn, "linear_pointwise", lambda: counted)
    return calls


def test_a_product_is_fused_and_equals_the_plain_one(linear, fused_calls):
    expected = torch.nn.functional.linear(ROWS, linear.weight, linear.bias)
    torch.testing.assert_close(linear(ROWS), expected)
    torch.testing.assert_close(linear.gelu(ROWS), torch.nn.functional.gelu(expected))
    assert fused_calls == ["none", "gelu"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_weights_compute_as_their_float32_values(linear, dtype):
    half = copy.deepcopy(linear).to(dtype)
    expected = copy.deepcopy(half).float()
    torch.testing.assert_close(half(ROWS), expected(ROWS), atol=0, rtol=0)
    torch.testing.assert_close(half.gelu(ROWS), expected.gelu(ROWS), atol=0, rtol=0)


def test_weights_changed_in_place_count_at_once(linear):
    linear.weight.mul_(2.0)
    linear.bias.add_(1.0)
    expected = torch.nn.functional.linear(ROWS, linear.weight, linear.bias)
    torch.testing.assert_close(linear(ROWS), expected)


def test_gradients_flow_as_through_torchs_layer(linear):
    rows = ROWS.clone().requires_grad_()
    linear.gelu(rows).sum().backward()
    expected = ROWS.clone().requires_grad_()
    plain = torch.nn.functional.linear(expected, linear.weight, linear.bias)
    torch.nn.functional.gelu(plain).sum().backward()
    torch.testing.assert_close(rows.grad, expected.grad)


def test_a_build_without_the_fused_product_computes_the_same(linear, monkeypatch):
    fused, fused_gelu = linear(ROWS), linear.gelu(ROWS)
    monkeypatch.setattr(onednn, "linear_pointwise", lambda: None)
    torch.testing.assert_close(linear(ROWS), fused)
    torch.testing.assert_close(linear.gelu(ROWS), fused_gelu)


def test_torchs_own_switch_for_onednn_is_obeyed(linear, fused_calls, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    linear(ROWS)
    assert fused_calls == []


def test_a_hook_of_the_first_layer_of_two_is_called(linear):
    expected = torch.nn.functional.gelu(2 * linear(ROWS))
    linear.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(linear.gelu(ROWS), expected)


def test_a_table_laid_out_for_a_file_is_not_initialised(monkeypatch):
    # On meta that would import torch's compiler: more than a second of every start.
    monkeypatch.setattr(torch.nn.init, "normal_", None)
    ops.Embedding(10, 4, device="meta")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own use of it
@pytest.mark.parametrize("grad", [True, False])
def test_derivatives_forward_are_torchs_layers(linear, grad):
    def plain(rows):
        return torch.nn.functional.linear(rows, linear.weight, linear.bias)

    with torch.set_grad_enabled(grad):
        found = torch.func.jvp(linear, (ROWS,), (ROWS,))
        torch.testing.assert_close(found, torch.func.jvp(plain, (ROWS,), (ROWS,)))
