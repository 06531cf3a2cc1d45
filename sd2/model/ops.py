"""The layer classes: those used unless a host injects its own, and the fast CPU way they share.

They have the names and the casting of ``comfy.ops.manual_cast``: a weight is cast to the dtype of
the layer's input, so that weights stored in fp16 or bf16 compute in fp32.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812 torch's own name for it

from . import onednn
from .weights_fingerprint import WatchedLayer


class FastLinear(WatchedLayer):
    """Computes a linear layer with oneDNN where that is possible, else as the next class does.

    To be listed before a class derived from ``nn.Linear``, whose ``forward`` may do anything else.
    """

    product_dtype = torch.float32
    """Dtype of the operands; the result has the dtype of the input, float32."""

    @staticmethod
    def free_memory() -> float:
        """Return how many bytes may be used for packed weights."""
        return math.inf

    def forward(self, input: Tensor) -> Tensor:
        if self._takes_onednn(input):
            return self._onednn(input, "none", "")
        return super().forward(input)  # type: ignore[no-any-return]

    def gelu(self, input: Tensor) -> Tensor:
        """Compute ``gelu(self(input))``, in one pass over memory if oneDNN is available."""
        is_own = not (self._forward_hooks or self._forward_pre_hooks or "forward" in vars(self))
        if is_own and self._takes_onednn(input):
            return self._onednn(input, "gelu", "none")
        return F.gelu(self(input))

    def weights_read(self) -> None:
        super().weights_read()
        self._forget()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._forget()  # device or dtype changes, or a host takes the encoder out of use
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        weight = self._parameters.get("weight")
        if weight is not None:
            onednn.forget(weight)

    def _onednn(self, input: Tensor, activation: str, algorithm: str) -> Tensor:
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None  # _takes_onednn
        dtype = self.product_dtype
        prepared = onednn.operand(weight, input.numel() // input.shape[-1], dtype, self.free_memory)
        cast_bias = None if bias is None else bias.to(dtype)
        product = onednn.linear_pointwise()
        result = product(input.to(dtype), prepared, cast_bias, activation, [], algorithm)
        return result.to(input.dtype)  # type: ignore[no-any-return]

    def _takes_onednn(self, input: Tensor) -> bool:
        if torch.compiler.is_compiling():  # the compiler selects products itself
            return False
        weight = self._parameters.get("weight")
        # The fused product has no derivative, backward or forward.
        return (
            type(weight) is nn.Parameter
            and type(input) is Tensor  # not a tracer's
            and weight.device.type == input.device.type == "cpu"
            and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
            and weight.layout == torch.strided
            and input.dtype == torch.float32
            and not (torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad))
            # A private name; without it there may be a derivative.
            and getattr(forward_ad, "_current_level", 0) < 0
            and bool(torch.backends.mkldnn.enabled)
            and onednn.linear_pointwise() is not None
            and self.is_ordinary()
        )


class _CastLinear(nn.Linear):
    """A linear layer that casts its weights to the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        return F.linear(
            input, weight.to(input.dtype), None if bias is None else bias.to(input.dtype)
        )


class Linear(FastLinear, _CastLinear):
    """A linear layer that casts its weights, fast on the CPU."""


class LayerNorm(WatchedLayer, nn.LayerNorm):
    """A layer norm that casts its weights to the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        assert bias is not None
        return F.layer_norm(
            input,
            self.normalized_shape,
            weight.to(input.dtype),
            bias.to(input.dtype),
            self.eps,
        )


class Embedding(WatchedLayer, nn.Embedding):
    """A table whose values are loaded from a file."""

    def reset_parameters(self) -> None:
        # On meta torch would import its compiler, which takes a second, and initialise nothing.
        weight = self._parameters["weight"]
        if weight is not None and not weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        weight = self._parameters["weight"]
        assert weight is not None
        return F.embedding(input, weight)


class Bf16Linear(Linear):
    """A linear layer whose products are computed in bf16."""

    product_dtype = torch.bfloat16


def layer_classes(product_dtype: torch.dtype) -> Any:
    """Return the classes whose products on the CPU have operands of *product_dtype*."""
    linear = Bf16Linear if product_dtype == torch.bfloat16 else Linear
    return SimpleNamespace(Linear=linear, LayerNorm=LayerNorm, Embedding=Embedding)
