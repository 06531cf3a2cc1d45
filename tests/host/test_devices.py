"""Device and dtype decisions. There is no GPU here: the list of GPUs is a fake."""

import pytest
import torch
from sd2_clip.host import devices
from sd2_clip.sd2.errors import OptionError
from sd2_clip.sd2.model import onednn

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("gpus", "name", "dtype", "device", "chosen_dtype"),
    [
        ([], "auto", None, CPU, torch.float32),
        ([], "cpu", torch.float16, CPU, torch.float16),
        ([FIRST, SECOND], "auto", None, FIRST, torch.float16),
        ([FIRST, SECOND], "cpu", None, CPU, torch.float32),
        ([FIRST, SECOND], "gpu", None, FIRST, torch.float16),
        ([FIRST, SECOND], "gpu:1", torch.bfloat16, SECOND, torch.bfloat16),
        ([FIRST, SECOND], "cuda:1", None, SECOND, torch.float16),
    ],
)
def test_a_device_that_is_there_is_taken(gpus, name, dtype, device, chosen_dtype, monkeypatch):
    monkeypatch.setattr(devices, "accelerators", lambda: gpus)
    placement = devices.select_device(name, dtype)
    assert (placement.load_device, placement.offload_device) == (device, device)
    assert placement.dtype == chosen_dtype
    assert placement.notes == ()


@pytest.mark.parametrize(
    ("gpus", "name", "fallback", "there"),
    [([], "gpu:0", CPU, "no GPU"), ([FIRST], "gpu:3", FIRST, "gpu:0")],
)
def test_an_absent_device_falls_back_and_is_named(gpus, name, fallback, there, monkeypatch):
    monkeypatch.setattr(devices, "accelerators", lambda: gpus)
    placement = devices.select_device(name, None)
    assert placement.load_device == fallback
    (note,) = placement.notes
    assert name in note
    assert there in note


@pytest.mark.parametrize("name", ["tpu", "gpu:-1", "gpu:x", ""])
def test_an_unknown_device_is_an_error(name):
    with pytest.raises(OptionError, match="Choose auto, cpu"):
        devices.select_device(name, None)


@pytest.mark.parametrize(
    ("dtype", "has_bf16", "expected"),
    [
        (torch.bfloat16, True, torch.bfloat16),
        (torch.bfloat16, False, torch.float32),
        (torch.float16, True, torch.float32),
        (None, True, torch.float32),
    ],
)
def test_a_cpu_multiplies_in_bf16_where_asked_and_able(dtype, has_bf16, expected, monkeypatch):
    monkeypatch.setattr(onednn, "has_bf16", lambda: has_bf16)
    assert devices.select_device("cpu", dtype).product_dtype == expected


def test_a_gpu_has_the_products_of_its_weights(monkeypatch):
    monkeypatch.setattr(devices, "accelerators", lambda: [FIRST])
    assert devices.select_device("auto", torch.bfloat16).product_dtype is None


@pytest.mark.parametrize(
    ("device", "dtype", "kept"),
    [("cpu", None, True), ("cpu", torch.float32, True), ("cpu", torch.bfloat16, False),
     ("gpu:0", torch.float32, False)],
)  # fmt: skip
def test_only_a_cpu_with_fp32_keeps_narrower_tensors(device, dtype, kept, monkeypatch):
    monkeypatch.setattr(devices, "accelerators", lambda: [FIRST])
    assert devices.select_device(device, dtype).keeps_narrower == kept
