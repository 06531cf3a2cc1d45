"""The layer classes that are used unless a host injects its own.

They have the names and the casting of ``comfy.ops.manual_cast``: a weight is cast to the dtype of
the layer's input, so that weights stored in fp16 or bf16 compute in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812 torch's own name for it

from . import onednn


class Linear(nn.Linear):
    """A linear layer that casts its weights to the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        if self._takes_onednn(input):
            return self._onednn(input, "none", "")
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)

    def gelu(self, input: Tensor) -> Tensor:
        """Compute ``gelu(self(input))``, in one pass over memory if oneDNN is available."""
        if self._takes_onednn(input):
            return self._onednn(input, "gelu", "none")
        return F.gelu(self(input))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        with onednn.packing:
            onednn.forget(self.weight)  # its device or dtype changes
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        with onednn.packing:
            onednn.forget(self.weight)
            super()._load_from_state_dict(*args, **kwargs)

    def _onednn(self, input: Tensor, activation: str, algorithm: str) -> Tensor:
        stored = self.weight
        weight = stored.to(input.dtype)
        if weight is stored:
            weight = onednn.packed(weight, input.numel() // self.in_features)
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return onednn.linear_pointwise()(input, weight, bias, activation, [], algorithm)  # type: ignore[no-any-return]

    def _takes_onednn(self, input: Tensor) -> bool:
        if torch.compiler.is_compiling():  # the compiler selects products itself
            return False
        # The fused product has no derivative, backward or forward.
        backward = torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad)
        return (
            input.device.type == "cpu"
            and input.dtype == torch.float32
            and not backward
            and forward_ad._current_level < 0
            and bool(torch.backends.mkldnn.enabled)
            and onednn.linear_pointwise() is not None
        )


class LayerNorm(nn.LayerNorm):
    """A layer norm that casts its weights to the dtype of its input."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class Embedding(nn.Embedding):
    """A table whose values are loaded from a file."""

    def reset_parameters(self) -> None:
        # On meta torch would import its compiler, which takes a second, and initialise nothing.
        if not self.weight.is_meta:
            super().reset_parameters()
