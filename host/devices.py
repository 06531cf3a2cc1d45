"""Selects a text encoder's device and dtype where ComfyUI does not."""

from __future__ import annotations

import torch

from ..sd2.errors import OptionError
from .interface import DevicePlacement

DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def accelerators() -> list[torch.device]:
    """List every GPU that torch can use: CUDA and ROCm, then Intel's XPU, then Apple's MPS."""
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        found += [torch.device("xpu", index) for index in range(torch.xpu.device_count())]
    if torch.backends.mps.is_available():
        found.append(torch.device("mps"))
    return found


def parse_device(name: str) -> int | None:
    """Return the number in ``gpu:N`` (``gpu`` and ``cuda`` are accepted too), None for ``cpu``."""
    kind, _, number = name.strip().lower().partition(":")
    if kind == "cpu":
        return None
    if kind in ("gpu", "cuda", "xpu", "mps") and (number.isdecimal() or not number):
        return int(number or 0)
    raise OptionError(f"device {name!r} is unknown. Choose auto, cpu, or gpu:0, gpu:1, …")


def select_device(name: str, dtype: torch.dtype | None) -> DevicePlacement:
    """Resolve ``auto``, ``cpu`` or ``gpu:N``.

    Auto is the first GPU, or the CPU if there is no GPU. A dtype of None is fp16 on a GPU and fp32
    on a CPU. A CPU keeps narrower tensors of the file memory-mapped as they are.
    """
    gpus = accelerators()
    cpu = torch.device("cpu")
    device = gpus[0] if gpus else cpu
    notes: tuple[str, ...] = ()
    if name != "auto":
        number = parse_device(name)
        if number is None:
            device = cpu
        elif number < len(gpus):
            device = gpus[number]
        else:
            available = ", ".join(f"gpu:{i}" for i in range(len(gpus))) or "no GPU"
            notes = (
                f"device {name} does not exist (this machine has {available}); using {device}.",
            )
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" else torch.float16
    on_cpu = device.type == "cpu"
    return DevicePlacement(
        load_device=device,
        offload_device=device,
        dtype=dtype,
        product_dtype=cpu_product_dtype(dtype) if on_cpu else None,
        keeps_narrower=on_cpu and dtype == torch.float32,
        notes=notes,
    )


def cpu_product_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a CPU's matrix products with weights of *dtype*.

    float32, unless bf16 was asked for and the CPU has the instructions: everything else is slower.
    """
    from ..sd2.model.onednn import has_bf16

    return torch.bfloat16 if dtype == torch.bfloat16 and has_bf16() else torch.float32
