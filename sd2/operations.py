"""The layer classes used where no host injects its own.

They have the names and the casting behaviour of ``comfy.ops.manual_cast``: a weight is cast to the
dtype of what flows through it, so that fp16 or bf16 storage computes in fp32.
"""

from __future__ import annotations

import logging
import platform
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 torch's own name for it

log = logging.getLogger("sd2_clip")


@cache
def onednn_linear() -> Any:
    """torch's fused oneDNN product ``(x, w, b, activation, [], algorithm)``; None: not here.

    At a prompt's 77 rows it computes about 1.4 times as fast as ``F.linear`` (MKL), on the same
    plain weights. It is how torch.compile calls oneDNN and no public name, so it must first prove
    itself on a small product.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None  # never measured there
    try:
        product = torch.ops.mkldnn._linear_pointwise
        cpu = torch.device("cpu")  # whatever the default may be
        x = torch.arange(-6.0, 6.0, device=cpu).reshape(3, 4)
        eye, zeros = torch.eye(4, device=cpu), torch.zeros(4, device=cpu)
        eye, zeros = torch.eye(4, dtype=x.dtype), torch.zeros(4, dtype=x.dtype)
        for activation, algorithm, expected in (("none", "", x), ("gelu", "none", F.gelu(x))):
            found = product(x, eye, zeros, activation, [], algorithm)
            torch.testing.assert_close(found, expected)
    except (AttributeError, RuntimeError, AssertionError) as error:
        log.debug("This torch lacks oneDNN's fused product, so its plain one is used: %s", error)
        return None
    return product


class Linear(nn.Linear):
    """A linear layer whose weights may be stored in another dtype than it computes in."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self._cast(input)
        if self._takes_onednn(input):
            return onednn_linear()(input, weight, bias, "none", [], "")  # type: ignore[no-any-return]
        return F.linear(input, weight, bias)

    def gelu(self, input: Tensor) -> Tensor:
        """``gelu(self(input))``, in one pass over memory where oneDNN can."""
        if self._takes_onednn(input):
            weight, bias = self._cast(input)
            return onednn_linear()(input, weight, bias, "gelu", [], "none")  # type: ignore[no-any-return]
        return F.gelu(self(input))

    def _cast(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return self.weight.to(input.dtype), bias

    def _takes_onednn(self, input: Tensor) -> bool:
        # The fused product has no derivative.
        differentiated = torch.is_grad_enabled() and (
            input.requires_grad or self.weight.requires_grad
        )
        return (
            input.device.type == "cpu"
            and input.dtype == torch.float32
            and not differentiated
            and bool(torch.backends.mkldnn.enabled)
            and onednn_linear() is not None
        )


class LayerNorm(nn.LayerNorm):
    """A layer norm whose weights may be stored in another dtype than it computes in."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


class Embedding(nn.Embedding):
    """A table that gets its numbers from a file."""

    def reset_parameters(self) -> None:
        # torch would import its compiler, for a second and more, to do nothing on meta.
        if not self.weight.is_meta:
            super().reset_parameters()
