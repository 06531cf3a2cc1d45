"""Packed weights: quicker, and never other results."""

import copy
import gc
import io
import math
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from sd2_clip.sd2.model import onednn
from sd2_clip.sd2.model.ops import Bf16Linear, Linear
from torch._subclasses.fake_tensor import FakeTensorMode

ROWS = torch.randn(3, 7, 256, generator=torch.Generator().manual_seed(1))
BATCH = torch.randn(onednn.FEW_ROWS + 1, 256, generator=torch.Generator().manual_seed(2))
NAMES = ["before.weight", "weight", "bias"]

needs_packing = pytest.mark.skipif(onednn.reorder_weight() is None, reason="needs oneDNN on x86")


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(onednn, "PACK_AFTER", 2)
    with torch.no_grad():
        yield


@pytest.fixture
def file(tmp_path) -> Path:
    """Two weights side by side in a file, so that pages hold numbers of both."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"before.weight": (33, 7), "weight": (512, 256), "bias": (512,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "two.safetensors")
    return tmp_path / "two.safetensors"


def mapped(file: Path, dtype: torch.dtype = torch.float32, kind: type[Linear] = Linear) -> Linear:
    """The layer of a file, as the loader makes it."""
    tensors = open_checkpoint(file).read(NAMES)
    layer = kind(256, 512, device="meta").requires_grad_(False)
    own = {name: tensors[name].to(dtype) for name in ("weight", "bias")}
    layer.load_state_dict(own, assign=True)
    return layer


@pytest.fixture
def layer(file) -> Linear:
    return mapped(file)


def parameter(layer: Linear) -> torch.nn.Parameter:
    """The weight, without the layer's noticing."""
    found = layer._parameters["weight"]
    assert found is not None
    return found


def is_packed(layer: Linear) -> bool:
    return isinstance(onednn._packed.get(parameter(layer)), onednn._Packed)


def pack(layer: Linear) -> None:
    for _ in range(int(onednn.PACK_AFTER)):
        layer(ROWS)
    assert is_packed(layer)


def assert_right(layer: Linear) -> None:
    weight, bias = (layer._parameters[name].float() for name in ("weight", "bias"))
    for rows in (ROWS, ROWS[0, :1], BATCH):
        expected = torch.nn.functional.linear(rows, weight, bias)
        torch.testing.assert_close(layer(rows), expected, atol=1e-4, rtol=1e-5)
        expected = torch.nn.functional.gelu(expected)
        torch.testing.assert_close(layer.gelu(rows), expected, atol=1e-4, rtol=1e-5)


@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_weight_in_use_is_packed_from_its_stored_dtype(file, dtype):
    layer = mapped(file, dtype)
    layer(ROWS)
    assert not is_packed(layer)
    layer(ROWS)
    assert is_packed(layer)
    assert_right(layer)
    assert parameter(layer).dtype == dtype


@needs_packing
@pytest.mark.skipif(not onednn.has_bf16(), reason="needs a CPU with AVX512_BF16 or AMX")
def test_products_in_bf16_are_packed_in_bf16(file):
    layer = mapped(file, torch.bfloat16, Bf16Linear)
    expected = torch.nn.functional.linear(ROWS, *(t.float() for t in layer.state_dict().values()))
    for _ in range(3):
        for found, right in ((layer(ROWS), expected), (layer.gelu(ROWS), expected.relu())):
            assert found.dtype == torch.float32
            assert float((found - right).norm() / right.norm()) < 0.05
        assert float((layer(ROWS) - expected).norm() / expected.norm()) < 0.01
    packed = onednn._packed[parameter(layer)]
    assert isinstance(packed, onednn._Packed)
    assert packed.weight.dtype == torch.bfloat16


@needs_packing
def test_values_stay_those_of_the_file(file, layer):
    pack(layer)
    found = layer.state_dict()
    expected = {name: tensor for name, tensor in load_file(file).items() if name in found}
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@needs_packing
def test_a_batch_alone_packs_nothing(layer):
    for _ in range(5):
        layer(BATCH)
    assert not is_packed(layer)


@needs_packing
def test_it_can_be_switched_off(layer, monkeypatch):
    monkeypatch.setattr(onednn, "PACK_AFTER", math.inf)
    for _ in range(5):
        layer(ROWS)
    assert not is_packed(layer)


def assign_data(layer: Linear) -> None:
    layer.weight.data = layer.weight.data * 1.5


def replace(layer: Linear) -> None:
    layer.weight = torch.nn.Parameter(layer.weight * 1.5, requires_grad=False)


def inference_tensor(layer: Linear) -> None:
    with torch.inference_mode():
        layer.weight = torch.nn.Parameter(layer.weight * 1.5, requires_grad=False)


CHANGES: dict[str, Callable[[Linear], object]] = {
    "in place": lambda layer: layer.weight.mul_(1.5),
    "one number in place": lambda layer: layer.weight[0].fill_(3.0),
    "through data": lambda layer: layer.weight.data.mul_(1.5),
    "data assigned": assign_data,
    "parameter replaced": replace,
    "data read in another order": lambda layer: setattr(
        layer.weight, "data", layer.weight.data.as_strided((512, 256), (1, 512))
    ),
    "loaded": lambda layer: layer.load_state_dict({"weight": layer.weight * 2, "bias": layer.bias}),
    "bias": lambda layer: layer.bias.data.add_(1.0),
    "through data, as ComfyUI's hooks do": lambda layer: layer.weight.data.copy_(
        parameter(layer) * 1.5
    ),
    "an inference tensor": lambda layer: inference_tensor(layer),
    "another dtype": lambda layer: layer.bfloat16(),
    "another dtype and back": lambda layer: layer.half().float(),
}


@needs_packing
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_weight_counts_at_the_next_product(layer, change):
    pack(layer)
    before = layer(ROWS)
    change(layer)
    after = layer(ROWS)
    assert not torch.equal(after, before)
    assert_right(layer)
    for _ in range(3):  # and once it is packed again
        torch.testing.assert_close(layer(ROWS), after)


@needs_packing
def test_a_weight_read_by_other_code_is_packed_anew(layer):
    # The reader may write through data, which torch does not count.
    pack(layer)
    layer.weight  # noqa: B018
    assert not is_packed(layer)
    pack(layer)
    assert_right(layer)


@needs_packing
def test_a_layer_that_is_moved_gives_its_packed_weight_up(layer):
    # ComfyUI moves an encoder to the offload device, which may be where it is, to unload it.
    pack(layer)
    layer.to("cpu")
    assert not is_packed(layer)


@needs_packing
def test_with_little_free_memory_nothing_is_packed(layer, monkeypatch, caplog):
    onednn._warn_once.cache_clear()
    size = parameter(layer).nbytes
    monkeypatch.setattr(Linear, "free_memory", staticmethod(lambda: 2 * size - 1))
    for _ in range(5):
        assert_right(layer)
    assert not is_packed(layer)
    assert "too little free memory" in caplog.text


@needs_packing
def test_free_memory_is_compared_with_all_that_will_be_packed(file, monkeypatch):
    layers = [mapped(file), mapped(file)]
    size = parameter(layers[0]).nbytes
    for layer in layers:
        layer(ROWS)
    monkeypatch.setattr(Linear, "free_memory", staticmethod(lambda: 4 * size - 1))
    layers[0](ROWS)
    assert not is_packed(layers[0])


@needs_packing
@pytest.mark.parametrize("way", ["in training", "made in inference mode"])
def test_a_weight_whose_changes_nobody_counts_is_not_packed(way, file):
    if way == "made in inference mode":
        with torch.inference_mode():
            layer = mapped(file)
            layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
    else:
        layer = mapped(file)
    if way == "in training":  # a fused optimizer's steps are not counted
        layer.requires_grad_()
    for _ in range(5):
        layer(ROWS)
    assert not is_packed(layer)


@needs_packing
def test_a_weight_that_goes_into_training_is_packed_no_longer(layer):
    pack(layer)
    layer.requires_grad_()
    torch.optim.SGD(layer.parameters(), lr=1.0, fused=True)
    layer(ROWS)
    assert_right(layer)
    with torch.enable_grad():
        assert layer(ROWS).requires_grad


@needs_packing
def test_layers_with_one_weight_share_what_is_packed(layer):
    pack(layer)
    twin = copy.deepcopy(layer, {id(p): p for p in layer.parameters()})
    assert is_packed(twin)
    twin._parameters["weight"] = torch.nn.Parameter(parameter(layer) * 2, requires_grad=False)
    assert_right(twin)
    assert is_packed(layer)
    assert_right(layer)


@needs_packing
@pytest.mark.slow
def test_what_is_packed_goes_with_its_weight(layer):
    pack(layer)
    twin = weakref.ref(onednn._packed[parameter(layer)].weight)
    layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
    gc.collect()
    assert twin() is None


@needs_packing
def test_a_packed_layer_can_be_copied_and_saved(layer):
    pack(layer)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        torch.testing.assert_close(twin.state_dict(), layer.state_dict(), atol=0, rtol=0)
        assert_right(twin)


@needs_packing
def test_values_that_are_loaded_while_packing_stay(layer, monkeypatch):
    reorder = onednn.reorder_weight()
    new = {name: tensor * 3 for name, tensor in layer.state_dict().items()}

    def disturbed(weight, rows):
        packed = reorder(weight, rows)
        layer.load_state_dict(new)  # as another thread may do
        return packed

    monkeypatch.setattr(onednn, "reorder_weight", lambda: disturbed)
    for _ in range(5):
        layer(ROWS)
    torch.testing.assert_close(layer.state_dict(), new, atol=0, rtol=0)
    assert_right(layer)


@needs_packing
def test_without_memory_for_it_weights_are_used_as_they_are(layer, monkeypatch, caplog):
    onednn._warn_once.cache_clear()

    def fails(weight, rows):
        raise RuntimeError("could not allocate")

    monkeypatch.setattr(onednn, "reorder_weight", lambda: fails)
    for _ in range(5):
        assert_right(layer)
    assert "could not be packed" in caplog.text


@needs_packing
@pytest.mark.slow
def test_threads_that_use_a_layer_at_once_all_get_its_results(file):
    expected = mapped(file)(ROWS)
    for _ in range(50):
        layer = mapped(file)
        with ThreadPoolExecutor(4) as pool:
            for result in pool.map(lambda _, layer=layer: layer(ROWS), range(16)):
                torch.testing.assert_close(result, expected)


@needs_packing
@pytest.mark.slow
def test_tracers_and_compilers_see_a_plain_product(layer):
    for _ in range(5):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert layer(mode.from_tensor(ROWS)).shape == (3, 7, 512)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(5):
        torch.testing.assert_close(
            compiled(ROWS), torch.nn.functional.linear(ROWS, layer.weight, layer.bias)
        )


@needs_packing
def test_threads_with_half_precision_weights_do_not_share_converted_ones(file, monkeypatch):
    monkeypatch.setattr(onednn, "PACK_AFTER", math.inf)
    layers = [mapped(file, torch.float16) for _ in range(4)]
    for number, layer in enumerate(layers):
        layer.weight.mul_(number)
    expected = [layer(ROWS) for layer in layers]

    def computed(number: int) -> torch.Tensor:
        with torch.inference_mode(number % 2 == 0):
            return layers[number % 4](ROWS)

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(computed, range(80))):
            torch.testing.assert_close(found, expected[number % 4], atol=0, rtol=0)


PROGRAM = """
import signal, sys, torch
from sd2_clip.sd2.model import onednn
from sd2_clip.sd2.model.ops import Linear
from sd2_clip.sd2.files.checkpoint import open_checkpoint

onednn.PACK_AFTER = 1
reorder = onednn.reorder_weight()

def killed(weight, rows):
    packed = reorder(weight, rows)
    if "kill" in sys.argv:
        signal.raise_signal(signal.SIGKILL)
    return packed

onednn.reorder_weight = lambda: killed
layer = Linear(256, 512, device="meta").requires_grad_(False)
layer.load_state_dict(open_checkpoint(sys.argv[1]).read(["weight", "bias"]), assign=True)
with torch.no_grad():
    for _ in range(3):
        result = layer(torch.ones(7, 256))
print(result.double().sum().item())
"""


@needs_packing
@pytest.mark.slow
def test_two_processes_and_one_killed_while_packing_leave_the_file_as_it_was(file):
    before = file.read_bytes()

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, str(file), *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))

    killed, *others = start("kill"), start(), start()
    killed.communicate()
    outputs = [process.communicate()[0] for process in others]
    assert killed.returncode == -signal.SIGKILL
    assert file.read_bytes() == before
    layer = mapped(file)
    expected = layer(torch.ones(7, 256)).double().sum().item()
    assert [float(output) for output in outputs] == pytest.approx([expected] * 2)


@pytest.mark.parametrize("name", ["_linear_pointwise", "_reorder_linear_weight"])
def test_an_operation_that_computes_wrongly_is_not_used(name, monkeypatch):
    found = onednn.linear_pointwise if name == "_linear_pointwise" else onednn.reorder_weight
    monkeypatch.setattr(torch.ops.mkldnn, name, lambda *arguments: torch.zeros(32, 16))
    assert found.__wrapped__() is None


def test_where_torch_has_no_such_operations_nothing_is_packed(monkeypatch):
    class Empty:
        """An operator namespace without operators."""

    monkeypatch.setattr(torch.ops, "mkldnn", Empty())
    assert onednn.linear_pointwise.__wrapped__() is None
    assert onednn._proven("_reorder_linear_weight", lambda found: (found, found)) is None
