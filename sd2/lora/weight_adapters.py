"""Computes changed weights from the matrices that LoRA files store: LoRA, LoHa, LoKr, full diffs.

Values agree with ComfyUI's LoRA loader; names of tensors are kohya's and LyCORIS'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Factors(Protocol):
    """The matrices from which the change of one weight, (out, in), is computed."""

    @property
    def kind(self) -> str:
        """Name of the method, for reports."""

    @property
    def rank(self) -> int | None:
        """Divisor of alpha; None: alpha is not used."""

    def delta(self, like: Tensor) -> Tensor:
        """The change before alpha, (out, in), in the dtype and on the device of *like*."""

    def tensors(self) -> dict[str, Tensor]:
        """The matrices by the ends of their names in a kohya file."""


@dataclass(frozen=True)
class LoRA:
    """LoRA: ``up @ down``."""

    up: Tensor
    """(out, rank)"""
    down: Tensor
    """(rank, in)"""

    kind = "LoRA"

    @property
    def rank(self) -> int:
        return len(self.down)

    def delta(self, like: Tensor) -> Tensor:
        return self.up.to(like) @ self.down.to(like)

    def tensors(self) -> dict[str, Tensor]:
        return {"lora_up.weight": self.up, "lora_down.weight": self.down}


@dataclass(frozen=True)
class LoHa:
    """LoHa: ``(w1_a @ w1_b) * (w2_a @ w2_b)``, a Hadamard product."""

    w1_a: Tensor
    """(out, rank), as ``w2_a``"""
    w1_b: Tensor
    """(rank, in), as ``w2_b``"""
    w2_a: Tensor
    w2_b: Tensor

    kind = "LoHa"

    @property
    def rank(self) -> int:
        return len(self.w1_b)

    def delta(self, like: Tensor) -> Tensor:
        first = self.w1_a.to(like) @ self.w1_b.to(like)
        return first * (self.w2_a.to(like) @ self.w2_b.to(like))

    def tensors(self) -> dict[str, Tensor]:
        names = ("w1_a", "w1_b", "w2_a", "w2_b")
        return {f"hada_{name}": getattr(self, name) for name in names}


@dataclass(frozen=True)
class LoKr:
    """LoKr: the Kronecker product of two matrices, each whole or as a product of two."""

    w1: tuple[Tensor, ...]
    """One matrix, or two whose product it is."""
    w2: tuple[Tensor, ...]

    kind = "LoKr"

    @property
    def rank(self) -> int | None:
        ranks = [len(pair[1]) for pair in (self.w1, self.w2) if len(pair) == 2]
        return ranks[-1] if ranks else None

    def delta(self, like: Tensor) -> Tensor:
        import torch

        w1, w2 = (
            one[0].to(like) if len(one) == 1 else one[0].to(like) @ one[1].to(like)
            for one in (self.w1, self.w2)
        )
        return torch.kron(w1, w2)

    def tensors(self) -> dict[str, Tensor]:
        named = {}
        for name, one in (("lokr_w1", self.w1), ("lokr_w2", self.w2)):
            endings = ("",) if len(one) == 1 else ("_a", "_b")
            named.update({name + ending: part for ending, part in zip(endings, one, strict=True)})
        return named


@dataclass(frozen=True)
class FullDiff:
    """The whole difference between two models' weights."""

    diff: Tensor
    """(out, in)"""

    kind = "full differences"
    rank = None

    def delta(self, like: Tensor) -> Tensor:
        return self.diff.to(like)

    def tensors(self) -> dict[str, Tensor]:
        return {"diff": self.diff}


@dataclass(frozen=True)
class Change:
    """The change of one weight: its factors, scaled by ``alpha / rank``, and DoRA's norms."""

    factors: Factors
    alpha: float | None = None
    """None stands for the rank."""
    dora_scale: Tensor | None = None
    """Norms of the changed weight's columns, (1, in), or of its rows, (out, 1)."""

    def __call__(self, weight: Tensor, strength: float) -> Tensor:
        """*weight* changed, in its own dtype, which should be float32.

        DoRA by rows divides by the norms of the unchanged weight, and by columns by those of the
        changed one, as in ComfyUI.
        """
        delta = self.factors.delta(weight)
        if self.alpha is not None and self.factors.rank is not None:
            delta = delta * (self.alpha / self.factors.rank)
        if self.dora_scale is None:
            return weight + strength * delta
        scale = self.dora_scale.to(weight)
        by_rows = len(scale) == len(weight)
        norms = weight.norm(dim=1, keepdim=True) if by_rows else (weight + delta).norm(dim=0)
        eps = 2.0**-23  # float32's
        changed = (weight + delta) * (scale / (norms + eps))
        result: Tensor = weight + strength * (changed - weight)
        return result

    def kohya_tensors(self, name: str) -> dict[str, Tensor]:
        """The change as tensors of a kohya file: ``<name>.lora_up.weight`` and so on."""
        import torch

        tensors = {f"{name}.{part}": tensor for part, tensor in self.factors.tensors().items()}
        if self.alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(self.alpha)
        if self.dora_scale is not None:
            tensors[f"{name}.dora_scale"] = self.dora_scale
        return tensors


PARTS = (
    "up", "down", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "lokr_w1", "lokr_w1_a",
    "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "diff",
)  # fmt: skip
"""Names of the matrices that ``factors_of`` takes."""


def factors_of(parts: Mapping[str, Tensor]) -> Factors | None:
    """The factors that *parts* are; None unless they are exactly one kind.

    Their shapes may not fit together; see ``shape_of``.
    """
    given = {name for name in parts if name in PARTS}
    if any(parts[name].dim() < 2 or 0 in parts[name].shape for name in given):
        return None
    if given == {"up", "down"}:
        return LoRA(parts["up"].flatten(1), parts["down"].flatten(1))
    if given == {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}:
        return LoHa(*(parts[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b")))
    if given == {"diff"}:
        return FullDiff(parts["diff"])
    sides = []
    for name in ("lokr_w1", "lokr_w2"):
        whole, pair = {name}, {f"{name}_a", f"{name}_b"}
        if given & (whole | pair) not in (whole, pair):
            return None
        sides.append(tuple(parts[part] for part in sorted(given & (whole | pair))))
        given -= whole | pair
    return None if given else LoKr(*sides)


def shape_of(factors: Factors) -> tuple[int, int] | None:
    """(out, in) of the change; None if the factors do not fit together."""
    import torch

    try:
        delta = factors.delta(torch.empty(0, device="meta"))  # where only shapes are computed
    except RuntimeError:
        return None
    return (delta.shape[0], delta.shape[1]) if delta.dim() == 2 else None
