"""The layer classes used where no host injects its own.

They have the names and the casting behaviour of ``comfy.ops.manual_cast``: a weight is cast to the
dtype of what flows through it, so that fp16 or bf16 storage computes in fp32.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear


class Linear(nn.Linear):
    """A linear layer whose weights may be stored in another dtype than it computes in."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return linear(input, self.weight.to(input.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """A layer norm whose weights may be stored in another dtype than it computes in."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return layer_norm(input, self.normalized_shape, weight, bias, self.eps)


Embedding = nn.Embedding
