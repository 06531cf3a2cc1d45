"""Facts about the loaded weights of a text encoder: what was found, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ..host.interface import DevicePlacement
from ..sd2.detection.detection import Detection
from ..sd2.detection.read_encoder import encoder_tensors
from ..sd2.files.checkpoint import Checkpoint
from ..sd2.files.file_stamp import FileStamp
from ..sd2.files.tensor_hash import state_dict_digest


class _FileChangedError(Exception):
    """A file was changed or removed after it was loaded."""


@dataclass(frozen=True)
class EncoderSource:
    """All facts about the loaded weights of a text encoder, which carries it as ``source``."""

    detection: Detection
    placement: DevicePlacement
    placeholder_layers: frozenset[int]
    """Layers that the file lacks, counted from 0; identity blocks were added for them."""
    placeholder_projection: bool
    """Whether the file lacks the text projection; an identity matrix was added for it."""
    notes: tuple[str, ...]
    """What else a user should know, such as a request that could not be met."""
    stamps: tuple[FileStamp, ...] = field(repr=False)
    """Of all files that were read, before they were."""
    mapped: bool
    """Whether weights may be bytes that are mapped from the files, not copies."""
    header_sha256: str = field(repr=False)
    """``Checkpoint.header_digest`` of them."""
    reopen: Callable[[], Checkpoint] = field(repr=False)
    """Opens the file again, or returns the tensors that were in memory already."""
    read: Callable[[], Mapping[str, torch.Tensor]] = field(repr=False)
    """Reads the state dict that the model was built from again."""

    def __deepcopy__(self, memo: dict[int, Any]) -> EncoderSource:
        return self  # immutable, and read() refers to the file

    def describe(self) -> str:
        """Describe what was found and loaded, in lines for people: the loader node's ``info``."""
        dtype = str(self.placement.dtype).removeprefix("torch.")
        products = self.placement.product_dtype
        loaded = f"as {dtype}, encodes on {self.placement.load_device}"
        if products is not None and self.placement.dtype == torch.bfloat16:
            has_bf16 = products == torch.bfloat16
            loaded += ", with products in "
            loaded += "bfloat16" if has_bf16 else "float32: this CPU has no bfloat16 instructions"
        lines = [("Loaded", loaded)]
        real = self.detection.num_layers
        lines += [
            (
                "Not in file",
                f"layer {number + 1}, which SD2 does not use; layer {real}'s states stand in for "
                "it",
            )
            for number in sorted(self.placeholder_layers)
        ]
        if self.placeholder_projection:
            lines.append(
                ("Not in file", "text projection, which SD2 does not use; pooled is not projected")
            )
        lines += [("Note", note) for note in self.notes]
        described = (f"{label + ':':<14}{text}" for label, text in lines)
        return "\n".join([self.detection.describe(), *described])

    def check_files(self) -> None:
        """Raise UnreadableFileError if weights are mapped from a file that was overwritten."""
        if self.mapped:
            for stamp in self.stamps:
                stamp.check_mapped()

    def digest(self) -> str:
        """Return a SHA-256 over names, shapes, dtypes and bytes of the encoder's tensors on disk.

        The first call reads the file. If the file was changed after loading, says so instead.
        """
        try:
            return self._digest
        except _FileChangedError:
            return "unknown: the file was changed after it was loaded"

    @cached_property
    def _digest(self) -> str:
        if not all(stamp.is_current() for stamp in self.stamps):
            raise _FileChangedError
        checkpoint = self.reopen()
        checkpoint.check_crcs(source.key for source in self.detection.sources.values())
        return state_dict_digest(encoder_tensors(checkpoint, self.detection))


def placeholders(added: Iterable[str], num_layers: int) -> tuple[frozenset[int], bool]:
    """Return which layers (counted from 0) are among the *added* names, and the projection."""
    names = set(added)
    layers = frozenset(n for n in range(num_layers) if f"text_model.encoder.layers.{n}" in names)
    return layers, "text_projection.weight" in names
