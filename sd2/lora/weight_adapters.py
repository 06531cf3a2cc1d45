"""Computes changed weights from the tensors that LoRA files store.

LoRA, LoHa, LoKr, GLoRA, differences, OFT and new values. Values agree with ComfyUI's LoRA loader;
names of tensors are kohya's and LyCORIS'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int | None, ...]
"""Of a weight; None stands for any size."""


class Factors(Protocol):
    """The matrices from which the change of one weight, (out, in), is computed."""

    @property
    def kind(self) -> str:
        """Name of the method, for reports."""

    @property
    def rank(self) -> int | None:
        """Divisor of alpha; None: alpha is not used."""

    @property
    def shape(self) -> Shape | None:
        """Shape of the weight; None if the matrices do not fit together."""

    def delta(self, weight: Tensor) -> Tensor:
        """The change of *weight* before alpha, in its dtype and on its device."""

    def tensors(self) -> dict[str, Tensor]:
        """The matrices by the ends of their names in a kohya file."""


def _product_shape(first: Tensor, second: Tensor) -> tuple[int, int] | None:
    """Shape of ``first @ second``; None if there is no such product."""
    return (first.shape[0], second.shape[1]) if first.shape[1] == second.shape[0] else None


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

    @property
    def shape(self) -> Shape | None:
        return _product_shape(self.up, self.down)

    def delta(self, weight: Tensor) -> Tensor:
        return self.up.to(weight) @ self.down.to(weight)

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

    @property
    def shape(self) -> Shape | None:
        first = _product_shape(self.w1_a, self.w1_b)
        return first if first == _product_shape(self.w2_a, self.w2_b) else None

    def delta(self, weight: Tensor) -> Tensor:
        first = self.w1_a.to(weight) @ self.w1_b.to(weight)
        return first * (self.w2_a.to(weight) @ self.w2_b.to(weight))

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

    @property
    def shape(self) -> Shape | None:
        sides = [
            tuple(one[0].shape) if len(one) == 1 else _product_shape(*one)
            for one in (self.w1, self.w2)
        ]
        if any(side is None or len(side) != 2 for side in sides):
            return None
        return tuple(a * b for a, b in zip(*filter(None, sides), strict=True))

    def delta(self, weight: Tensor) -> Tensor:
        import torch

        w1, w2 = (
            one[0].to(weight) if len(one) == 1 else one[0].to(weight) @ one[1].to(weight)
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
class GLoRA:
    """GLoRA: ``weight @ a1 @ a2 + b1 @ b2``; early LyCORIS: ``weight @ a2 @ a1 + b2 @ b1``."""

    a1: Tensor
    """(in, rank); early: (rank, in)"""
    a2: Tensor
    """(rank, in); early: (in, rank)"""
    b1: Tensor
    """(out, rank); early: (rank, in)"""
    b2: Tensor
    """(rank, in); early: (out, rank)"""

    kind = "GLoRA"

    @property
    def _ordered(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The matrices so that the products of the first two and of the last two are taken."""
        early = len({self.a1.shape[0], self.a2.shape[1], self.b1.shape[0], self.b2.shape[1]}) == 1
        modern = len({self.a1.shape[1], self.a2.shape[0], self.b1.shape[1], self.b2.shape[0]}) == 1
        # Of a square weight all of them agree, and the rank is the smaller size.
        if early and not (modern and self.a2.shape[0] < self.a2.shape[1]):
            return self.a2, self.a1, self.b2, self.b1
        return self.a1, self.a2, self.b1, self.b2

    @property
    def rank(self) -> int:
        return int(self._ordered[0].shape[1])

    @property
    def shape(self) -> Shape | None:
        first, second, third, fourth = self._ordered
        inner, outer = _product_shape(first, second), _product_shape(third, fourth)
        fits = inner is not None and outer is not None and inner == (outer[1], outer[1])
        return outer if fits else None

    def delta(self, weight: Tensor) -> Tensor:
        first, second, third, fourth = (matrix.to(weight) for matrix in self._ordered)
        return weight @ first @ second + third @ fourth

    def tensors(self) -> dict[str, Tensor]:
        return {f"{name}.weight": getattr(self, name) for name in ("a1", "a2", "b1", "b2")}


@dataclass(frozen=True)
class Difference:
    """The whole difference between two models' weights, biases or tables."""

    diff: Tensor

    kind = "full differences"
    rank = None

    @property
    def shape(self) -> Shape:
        return tuple(self.diff.shape)

    def delta(self, weight: Tensor) -> Tensor:
        return self.diff.to(weight)

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

    @property
    def kind(self) -> str:
        return self.factors.kind if self.dora_scale is None else "DoRA"

    @property
    def rank(self) -> int | None:
        return self.factors.rank

    @property
    def shape(self) -> Shape | None:
        return self.factors.shape

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


@dataclass(frozen=True)
class OFT:
    """OFT: rotates the outputs of a weight, in blocks."""

    blocks: Tensor
    """(number of blocks, size, size); the rotations are Cayley transforms of ``b - b.T``."""
    alpha: float | None = None
    """Largest norm of all blocks together; None or 0 for no limit."""

    kind = "OFT"
    rank = None

    @property
    def shape(self) -> Shape | None:
        number, size, other = self.blocks.shape
        return (number * size, None) if size == other else None

    def __call__(self, weight: Tensor, strength: float) -> Tensor:
        """*weight* changed. *strength* counts twice, as in ComfyUI: 0.5 is a quarter."""
        import torch

        blocks = self.blocks.to(weight)
        skew = blocks - blocks.transpose(1, 2)
        norm = skew.norm() + 1e-8
        if self.alpha and norm > self.alpha:
            skew = skew * (self.alpha / norm)
        identity = torch.eye(blocks.shape[1]).to(weight)
        turned = (identity + skew) @ torch.linalg.inv(identity - skew) - identity
        rows = weight.reshape(*blocks.shape[:2], -1)
        delta = (turned.transpose(1, 2) @ rows).flatten(0, 1)
        result: Tensor = weight + strength * strength * delta
        return result

    def kohya_tensors(self, name: str) -> dict[str, Tensor]:
        """The change as tensors of a LyCORIS file."""
        import torch

        tensors = {f"{name}.oft_blocks": self.blocks}
        if self.alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(self.alpha)
        return tensors


@dataclass(frozen=True)
class NewValue:
    """Replaces a weight, whatever the strength, as in ComfyUI."""

    value: Tensor

    kind = "new values"
    rank = None

    @property
    def shape(self) -> Shape:
        return tuple(self.value.shape)

    def __call__(self, weight: Tensor, strength: float) -> Tensor:
        """The new value in the dtype of *weight*."""
        return self.value.to(weight, copy=True)

    def kohya_tensors(self, name: str) -> dict[str, Tensor]:
        """The value as a tensor of a LoRA file."""
        return {f"{name}.set_weight": self.value}


WeightChange = Change | OFT | NewValue


_GLORA = ("a1", "a2", "b1", "b2")
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


def factors_of(parts: Mapping[str, Tensor]) -> Factors | None:
    """The factors that *parts* are; None unless they are exactly one kind.

    Their shapes may not fit together; see ``Factors.shape``.
    """
    given = set(parts)
    if given == {"diff"}:
        return Difference(parts["diff"])
    if any(tensor.dim() < 2 or 0 in tensor.shape for tensor in parts.values()):
        return None
    # Of 1 x 1 convolutions: trainers store linear layers so, too.
    flat = {name: tensor.flatten(1) for name, tensor in parts.items()}
    if given == {"up", "down"}:
        return LoRA(flat["up"], flat["down"])
    if given == set(_LOHA):
        return LoHa(*(flat[name] for name in _LOHA))
    if given == set(_GLORA):
        return GLoRA(*(flat[name] for name in _GLORA))
    sides = []
    for name in ("lokr_w1", "lokr_w2"):
        whole, pair = {name}, {f"{name}_a", f"{name}_b"}
        if given & (whole | pair) not in (whole, pair):
            return None
        sides.append(tuple(parts[part] for part in sorted(given & (whole | pair))))
        given -= whole | pair
    return None if given else LoKr(*sides)
