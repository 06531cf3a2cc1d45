"""What a host gives us and what we give a host: the vendored, comfy-style interface.

ComfyUI and our own standalone host both satisfy these Protocols. Nothing here imports a host,
torch or any other part of this package, so everything may import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

progress_sink: ContextVar[Callable[[int, int], None] | None] = ContextVar(
    "sd2_clip_progress_sink", default=None
)
"""Where work in progress reports ``(value, maximum)``; whoever executes a node sets it."""

Conditioning = list[list[Any]]
"""ComfyUI's CONDITIONING: a list of ``[cond, options]``; cond is ``(1, 77 * chunks, 1024)``."""

Tokens = Mapping[str, Sequence[Sequence[tuple[Any, ...]]]]
"""What ``tokenize`` returns: ``{"h": chunks}``, a chunk being 77 ``(id or vector, weight)``."""


class WeightChange(Protocol):
    """A change of one weight, such as a LoRA makes."""

    def __call__(self, weight: torch.Tensor, strength: float) -> torch.Tensor:
        """The changed weight; *weight* is float32 and is not written to."""

    def kohya_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """The same as a LoRA file's tensors in kohya's naming, for hosts with a reader for it."""


class Clip(Protocol):
    """The handle on a CLIP socket, as nodes use it; ``comfy.sd.CLIP`` is one.

    Handles are shared between nodes: change none, ``clone()`` first.
    """

    cond_stage_model: Any
    """The text encoder, an ``nn.Module`` with ``encode_token_weights``."""
    tokenizer: Any
    layer_idx: int | None

    def tokenize(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Tokens: ...

    def encode_from_tokens(
        self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any: ...

    def encode_from_tokens_scheduled(self, tokens: Tokens) -> Conditioning: ...

    def encode(self, text: str) -> torch.Tensor: ...

    def clip_layer(self, layer_idx: int | None) -> None: ...

    def clone(self) -> Clip: ...

    def add_patches(
        self, patches: Any, strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> Sequence[str]: ...

    def get_sd(self) -> dict[str, torch.Tensor]: ...

    def load_sd(self, sd: dict[str, torch.Tensor], full_model: bool = False) -> Any: ...


@dataclass(frozen=True)
class Placement:
    """Where a text encoder lives and computes, decided once, before its tensors are read."""

    load_device: torch.device
    """Where it computes."""
    offload_device: torch.device
    """Where it waits; equal to ``load_device`` where nothing moves."""
    dtype: torch.dtype
    """Of the stored weights."""
    notes: tuple[str, ...] = ()
    """What was asked for and could not be had, in words for the user."""


class Host(Protocol):
    """The program around us: its folders, its devices, and how it holds a text encoder."""

    def model_folders(self, kind: str) -> Sequence[Path]:
        """The folders of one kind, under ComfyUI's names: ``checkpoints``, ``embeddings``, …"""

    def input_directory(self) -> Path:
        """Where files that users bring for nodes lie."""

    def output_directory(self) -> Path:
        """Where nodes save results; it may not exist yet."""

    def embeds_workflows(self) -> bool:
        """Whether saved results carry the workflow that made them."""

    def devices(self) -> Sequence[str]:
        """Names for a device widget: ``auto``, ``cpu``, then ``gpu:N`` for each that is there."""

    def place(self, device: str, dtype: torch.dtype | None) -> Placement:
        """Choose for ``auto``, ``cpu`` or ``gpu:N``; an absent device falls back, with a note."""

    def build_clip(
        self,
        state_dict: Mapping[str, torch.Tensor],
        *,
        placement: Placement,
        embedding_directory: Sequence[str] | None,
        layer: str,
        layer_idx: int | None,
        model_options: Mapping[str, Any],
    ) -> Clip:
        """A handle around our model and tokenizer, holding *state_dict* (canonical names).

        The tensors are on ``placement.offload_device`` in ``placement.dtype``.
        """

    def lora_patches(self, changes: Mapping[str, WeightChange]) -> Any:
        """*changes*, by the name of the weight, as ``Clip.add_patches`` takes them here."""
