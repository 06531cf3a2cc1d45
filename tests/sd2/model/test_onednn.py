"""Packed weights: quicker, never other results, and never two copies in memory."""

import copy
import gc
import io
import math
import mmap
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sd2_clip.sd2.files.checkpoint import open_checkpoint
from sd2_clip.sd2.model import onednn
from sd2_clip.sd2.model.ops import Linear
from torch._subclasses.fake_tensor import FakeTensorMode

ROWS = torch.randn(3, 7, 256, generator=torch.Generator().manual_seed(1))
BATCH = torch.randn(onednn.FEW_ROWS + 1, 256, generator=torch.Generator().manual_seed(2))
NAMES = ["before.weight", "weight", "bias"]

needs_packing = pytest.mark.skipif(
    onednn.reorder_weight() is None, reason="needs oneDNN on x86, and Linux's /proc"
)


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


def mapped(file: Path) -> tuple[Linear, torch.Tensor]:
    """The layer of a file, as the loader makes it, and the weight before it."""
    tensors = open_checkpoint(file).read(NAMES)
    layer = Linear(256, 512, device="meta").requires_grad_(False)
    layer.load_state_dict({name: tensors[name] for name in ("weight", "bias")}, assign=True)
    return layer, tensors["before.weight"]


@pytest.fixture
def layer(file) -> Linear:
    return mapped(file)[0]


def is_packed(layer: Linear) -> bool:
    return onednn.packed(layer.weight, len(BATCH)) is not layer.weight


def pack(layer: Linear) -> None:
    for _ in range(onednn.PACK_AFTER):
        layer(ROWS)
    assert is_packed(layer)


def assert_right(layer: Linear) -> None:
    for rows in (ROWS, ROWS[0, :1], BATCH):
        expected = torch.nn.functional.linear(rows, layer.weight, layer.bias)
        torch.testing.assert_close(layer(rows), expected, atol=1e-4, rtol=1e-5)
        expected = torch.nn.functional.gelu(expected)
        torch.testing.assert_close(layer.gelu(rows), expected, atol=1e-4, rtol=1e-5)


def pages_in_memory(tensor: torch.Tensor) -> int:
    """How many of a tensor's own pages this process has mapped."""
    first, last = -(-tensor.data_ptr() // mmap.PAGESIZE), tensor.data_ptr() + tensor.nbytes
    count = last // mmap.PAGESIZE - first
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(8 * first)
        entries = memoryview(pagemap.read(8 * count)).cast("Q")
    return sum(entry >> 63 for entry in entries)


@needs_packing
def test_a_weight_in_use_is_packed_and_its_own_memory_given_back(layer):
    layer(ROWS)
    assert not is_packed(layer)
    assert pages_in_memory(layer.weight) * mmap.PAGESIZE > 0.95 * layer.weight.nbytes
    layer(ROWS)
    assert pages_in_memory(layer.weight) == 0
    assert is_packed(layer)
    assert_right(layer)


@needs_packing
def test_numbers_stay_those_of_the_file(file):
    layer, before = mapped(file)
    pack(layer)
    found = {**layer.state_dict(), "before.weight": before}
    torch.testing.assert_close(found, load_file(file), atol=0, rtol=0)


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
    "another dtype": lambda layer: layer.bfloat16(),
    "another dtype and back": lambda layer: layer.half().float(),
}


@needs_packing
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_changed_weight_counts_at_the_next_product(layer, change):
    pack(layer)
    before = layer(ROWS)
    change(layer)
    if layer.weight.dtype == torch.float32:
        assert_right(layer)
    assert not torch.equal(layer(ROWS), before)


@needs_packing
def test_a_weight_that_was_changed_keeps_its_numbers_and_is_not_packed(layer):
    layer.weight.data[100, 100] += 1.0
    changed = layer.weight.clone()
    for _ in range(5):
        assert_right(layer)
    assert not is_packed(layer)
    torch.testing.assert_close(layer.weight, changed, atol=0, rtol=0)


@needs_packing
def test_a_weight_in_memory_of_its_own_is_not_packed(layer):
    # As converted weights and those with a LoRA are: they would lie in memory twice.
    layer.weight = torch.nn.Parameter(layer.weight.clone(), requires_grad=False)
    for _ in range(5):
        assert_right(layer)
    assert not is_packed(layer)


@needs_packing
@pytest.mark.parametrize("way", ["shared", "in training", "made in inference mode"])
def test_a_weight_whose_changes_nobody_counts_is_not_packed(way, file):
    if way == "made in inference mode":
        with torch.inference_mode():
            layer = mapped(file)[0]
            layer.weight = torch.nn.Parameter(layer.weight, requires_grad=False)
    else:
        layer = mapped(file)[0]
    if way == "in training":  # a fused optimizer's steps are not counted
        layer.requires_grad_()
    if way == "shared":
        layer.share_memory()
    for _ in range(5):
        layer(ROWS)
    assert not is_packed(layer)


@needs_packing
def test_a_weight_that_goes_into_training_is_packed_no_longer(layer):
    pack(layer)
    layer.requires_grad_()
    torch.optim.SGD(layer.parameters(), lr=1.0, fused=True)
    assert not is_packed(layer)


@needs_packing
def test_layers_with_one_weight_share_what_is_packed(layer):
    pack(layer)
    twin = copy.deepcopy(layer, {id(p): p for p in layer.parameters()})
    assert onednn.packed(twin.weight, 1) is onednn.packed(layer.weight, 1)
    twin.weight = torch.nn.Parameter(layer.weight * 2, requires_grad=False)
    assert_right(twin)
    assert is_packed(layer)
    assert_right(layer)


@needs_packing
def test_what_is_packed_goes_with_its_weight(layer):
    pack(layer)
    twin = weakref.ref(onednn.packed(layer.weight, 1))
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
def test_numbers_that_are_loaded_while_packing_stay(layer, monkeypatch):
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
    def fails(weight, rows):
        raise RuntimeError("could not allocate")

    monkeypatch.setattr(onednn, "reorder_weight", lambda: fails)
    for _ in range(5):
        assert_right(layer)
    assert "could not be packed" in caplog.text


@needs_packing
def test_threads_that_use_a_layer_at_once_all_get_its_results(file):
    expected = mapped(file)[0](ROWS)
    for _ in range(50):
        layer = mapped(file)[0]
        with ThreadPoolExecutor(4) as pool:
            for result in pool.map(lambda _, layer=layer: layer(ROWS), range(16)):
                torch.testing.assert_close(result, expected)


@needs_packing
def test_tracers_and_compilers_see_a_plain_product(layer):
    for _ in range(5):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            assert layer(mode.from_tensor(ROWS)).shape == (3, 7, 512)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(5):
        torch.testing.assert_close(
            compiled(ROWS), torch.nn.functional.linear(ROWS, layer.weight, layer.bias)
        )


@pytest.mark.parametrize("kind", ["absent", "locked"])
def test_where_the_kernel_tells_nothing_of_pages_nothing_is_packed(kind, layer, monkeypatch):
    class Locked:
        def exists(self):
            raise PermissionError(13, "Permission denied")

        def open(self, *arguments, **options):
            raise PermissionError(13, "Permission denied")

    pagemap = Locked() if kind == "locked" else Path("/absent")
    monkeypatch.setattr(onednn, "_PAGEMAP", pagemap)
    for _ in range(5):
        assert_right(layer)
    assert not is_packed(layer)
    assert onednn.reorder_weight.__wrapped__() is None


@pytest.mark.parametrize("name", ["_linear_pointwise", "_reorder_linear_weight"])
def test_an_operation_that_computes_wrongly_is_not_used(name, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, name, lambda *arguments: torch.zeros(32, 16))
    found = onednn.linear_pointwise if name == "_linear_pointwise" else onednn.reorder_weight
    assert found.__wrapped__() is None
