"""The comfy-style interface between a host and us, as Protocols.

ComfyUI and our standalone host both satisfy them. This module imports no host, no torch and no
other part of this package at run time, so every part may import it.
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
"""Called with ``(value, maximum)`` of work in progress; set by the code that executes a node."""

Conditioning = list[list[Any]]
"""ComfyUI's CONDITIONING: a list of ``[cond, options]``; cond is ``(1, 77 * chunks, 1024)``."""

Tokens = Mapping[str, Sequence[Sequence[tuple[Any, ...]]]]
"""What ``tokenize`` returns: ``{"h": chunks}``, a chunk being 77 ``(id or vector, weight)``."""


class WeightChange(Protocol):
    """A change of one weight, such as a LoRA's."""

    def __call__(self, weight: torch.Tensor, strength: float) -> torch.Tensor:
        """Return the changed weight; *weight* is float32 and is not modified."""

    def kohya_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Return the change as tensors of a LoRA file in kohya's naming, for hosts that read it."""


class Clip(Protocol):
    """The handle on a CLIP socket, as nodes use it; ``comfy.sd.CLIP`` is one.

    Nodes share handles: ``clone()`` a handle before changing it.
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
class DevicePlacement:
    """Where a text encoder is stored and computes, selected before its tensors are read."""

    load_device: torch.device
    """Where it computes."""
    offload_device: torch.device
    """Where it is stored between encodes; equal to ``load_device`` if it never moves."""
    dtype: torch.dtype
    """Of the weights."""
    product_dtype: torch.dtype | None = None
    """Dtype of the operands of matrix products on the CPU; None: float32."""
    keeps_narrower: bool = False
    """Whether a tensor of the file that is narrower than ``dtype`` stays as it is, memory-mapped,
    and is converted whenever the encoder computes with it."""
    notes: tuple[str, ...] = ()
    """Requests that could not be met, in sentences for the user."""


class WeightsSource(Protocol):
    """All facts about loaded weights; the text encoder carries it as ``source``."""

    @property
    def placement(self) -> DevicePlacement: ...

    @property
    def placeholder_layers(self) -> frozenset[int]:
        """Layers that the file lacks, counted from 0; the state dict has identity blocks there."""

    @property
    def placeholder_projection(self) -> bool:
        """Whether the file lacks the text projection; the state dict has an identity matrix."""

    def read(self) -> Mapping[str, torch.Tensor]:
        """Read the state dict from the file again."""

    def check_files(self) -> None:
        """Raise UnreadableFileError if weights are mapped from a file that was overwritten."""

    def describe(self) -> str:
        """Describe what was found and loaded, in several lines for people."""

    def digest(self) -> str:
        """Return a SHA-256 of the encoder's tensors in the file, or say why there is none."""


class Host(Protocol):
    """The program that runs us: its folders, its devices, and its handle on a text encoder."""

    def model_folders(self, kind: str) -> Sequence[Path]:
        """List the folders of one kind, by ComfyUI's names: ``checkpoints``, ``embeddings``, …"""

    def input_directory(self) -> Path:
        """Return the folder of files that users provide to nodes."""

    def output_directory(self) -> Path:
        """Return the folder that nodes save results in; it may not exist yet."""

    def embeds_workflows(self) -> bool:
        """Tell whether saved results include the workflow that made them."""

    def devices(self) -> Sequence[str]:
        """List the names for a device widget: ``auto``, ``cpu``, then ``gpu:N`` for each GPU."""

    def select_device(self, device: str, dtype: torch.dtype | None) -> DevicePlacement:
        """Resolve ``auto``, ``cpu`` or ``gpu:N``; an absent device is replaced, with a note."""

    def build_clip(
        self,
        state_dict: Mapping[str, torch.Tensor],
        *,
        source: WeightsSource,
        embedding_directory: Sequence[str] | None,
        layer: str,
        layer_idx: int | None,
        model_options: Mapping[str, Any],
    ) -> Clip:
        """Build a handle on our model and tokenizer, holding *state_dict* (canonical names).

        The tensors are on the offload device of ``source.placement``, in its dtype, or in a
        narrower one if it ``keeps_narrower``.
        """

    def lora_patches(self, changes: Mapping[str, WeightChange]) -> Any:
        """Convert *changes*, by the name of the weight, to what ``Clip.add_patches`` takes."""
