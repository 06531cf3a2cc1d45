"""ComfyUI's own layer classes, computed our way while the weights lie unpatched on the CPU.

ComfyUI keeps a layer's patches, casts and moves in attributes of the layer. Ours computes itself
only if none is set that it does not know; in all other cases ``forward`` is ComfyUI's own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from comfy import model_management
from torch import Tensor, nn

from ..sd2.model import ops as ours
from ..sd2.model.weights_fingerprint import WatchedLayer

_KNOWN_ATTRIBUTES = frozenset(
    [
        *vars(ours.Linear(1, 1, device="meta")),  # torch's own
        *vars(ours.LayerNorm(1, device="meta")),
        *vars(ours.Embedding(1, 1, device="meta")),
        # ComfyUI's notes of what it has done with the layer:
        "comfy_cast_weights",
        "comfy_force_cast_weights",
        "comfy_need_lazy_init_bias",
        "comfy_patched_weights",
        "prev_comfy_cast_weights",
        "weight_comfy_model_dtype",
        "bias_comfy_model_dtype",
    ]
)
_FUNCTIONS = ("weight_function", "bias_function")


def _is_set(value: Any) -> bool:
    return not (value is None or value is False or (isinstance(value, (list, dict)) and not value))


class _ComfyUILayer(WatchedLayer):
    """A layer of ComfyUI's, to whose weights only known things have been done."""

    def is_ordinary(self) -> bool:
        attributes = vars(self)
        return not (
            any(getattr(self, name, None) for name in _FUNCTIONS)  # of the instance or the class
            or any(_is_set(attributes[name]) for name in attributes.keys() - _KNOWN_ATTRIBUTES)
        )

    def _is_ours(self, input: Tensor) -> bool:
        if input.device.type != "cpu":  # first: a GPU waits for each layer's Python
            return False
        model_management.throw_exception_if_processing_interrupted()
        weight = self._parameters.get("weight")
        return (
            type(weight) is nn.Parameter
            and weight.device.type == "cpu"
            and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
            and not torch.compiler.is_compiling()
            and self.is_ordinary()
        )


def layer_classes(manual_cast: Any, product_dtype: torch.dtype) -> Any:
    """Return our subclasses of the layers in ``comfy.ops.manual_cast``."""

    class Linear(ours.FastLinear, _ComfyUILayer, manual_cast.Linear):  # type: ignore[misc]
        @staticmethod
        def free_memory() -> float:
            return float(model_management.get_free_memory(torch.device("cpu")))

        def _takes_onednn(self, input: Tensor) -> bool:
            return self._is_ours(input) and super()._takes_onednn(input)

    class LayerNorm(_ComfyUILayer, manual_cast.LayerNorm):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if not kwargs and self._is_ours(args[0]):
                return ours.LayerNorm.forward(self, *args)
            return super().forward(*args, **kwargs)

    # ComfyUI of 2023 had no table of its own.
    table = getattr(manual_cast, "Embedding", ours.Embedding)

    class Embedding(_ComfyUILayer, table):  # type: ignore[misc,valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            if not kwargs and self._is_ours(args[0]):
                return ours.Embedding.forward(self, *args)
            return super().forward(*args, **kwargs)

    Linear.product_dtype = product_dtype
    return SimpleNamespace(Linear=Linear, LayerNorm=LayerNorm, Embedding=Embedding)
