"""ComfyUI's two text encoder bases, ``SDClipModel`` and ``SD1ClipModel``, as SD2 needs them.

The names, the options and the numbers are ComfyUI's, so that its nodes, LoRA tools and other packs
work on our model; see design.md's table of fixed names.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from . import operations as own_operations
from .config import TextEncoderConfig
from .errors import LayerError, OptionError
from .text_model import CLIPTextModel

log = logging.getLogger("sd2_clip")

Entry = Any
"""One place of a chunk: a token id, or a vector (a textual inversion's row)."""

MAX_BATCH = 32
"""Chunks per forward pass: bounds the memory that a prompt of any length takes."""

LOGIT_SCALE = 4.6055
"""ln(100), where CLIP's training clips the scale; unused for conditioning, but saved in files."""


class SDClipModel(nn.Module):
    """A CLIP text encoder that turns chunks of tokens into hidden states and a pooled vector."""

    LAYERS: Sequence[str] = ("last", "hidden", "all")

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        device: torch.device | str | None = "cpu",
        max_length: int = 77,
        freeze: bool = True,
        layer: str = "last",
        layer_idx: int | None = None,
        dtype: torch.dtype | None = None,
        return_projected_pooled: bool = True,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not 2 < max_length <= config.max_position_embeddings:
            raise OptionError(
                f"max_length {max_length} cannot be honoured: the encoder has "
                f"{config.max_position_embeddings} positions."
            )
        self.config = config
        self.max_length = max_length
        self.num_layers = config.num_hidden_layers
        self.special_tokens = {
            "start": config.bos_token_id,
            "end": config.eos_token_id,
            "pad": config.pad_token_id,
        }
        self.operations = (model_options or {}).get("custom_operations") or own_operations
        self.transformer = CLIPTextModel(config, self.operations, device=device, dtype=dtype)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE, device=device))
        if freeze:
            self.freeze()

        self.compute_dtype = torch.float32
        """Of activations. A host may lower it on a device that computes faster so."""
        self.output_device: torch.device | None = torch.device("cpu")
        """Where ``encode_token_weights`` leaves its result; None: where it was computed."""
        self.identity_layers: frozenset[int] = frozenset()
        """Blocks that the file did not have and that pass their input on unchanged."""
        self._warned_identity = False

        self.layer, self.layer_idx = self._checked_layer(layer, layer_idx)
        self.return_projected_pooled = return_projected_pooled
        self.execution_device: torch.device | None = None
        self.options_default = (self.layer, self.layer_idx, return_projected_pooled)

    def freeze(self) -> None:
        """Turn gradients off and training behaviour with them."""
        self.train(False)
        self.requires_grad_(False)

    def _checked_layer(self, layer: str, layer_idx: int | None) -> tuple[str, int | None]:
        if layer not in self.LAYERS:
            raise LayerError(
                f"layer {layer!r} is unknown. Choose one of: {', '.join(self.LAYERS)}."
            )
        if layer != "hidden":
            if layer_idx is not None:
                raise LayerError(
                    f"layer_idx {layer_idx} goes with layer 'hidden' only, not with {layer!r}."
                )
            return layer, None
        return layer, self._checked_index(layer_idx)

    def _checked_index(self, layer_idx: Any) -> int:
        count = self.num_layers
        if isinstance(layer_idx, bool) or not isinstance(layer_idx, Integral):
            raise LayerError(f"layer_idx {layer_idx!r} is no number. {self._layer_choices()}")
        if not -count <= int(layer_idx) < count:
            raise LayerError(f"layer_idx {layer_idx} does not exist. {self._layer_choices()}")
        return int(layer_idx)

    def _layer_choices(self) -> str:
        count = self.num_layers
        return (
            f"This encoder has {count} layers: choose -{count} (first) to -1 (last), "
            f"or 0 to {count - 1}."
        )

    def clip_layer(self, layer_idx: int | None) -> None:
        """Take hidden states from this layer from now on; None means the last one."""
        self.set_clip_options({"layer": layer_idx})

    def reset_clip_layer(self) -> None:
        """Return to the layer chosen at construction."""
        self.layer, self.layer_idx = self.options_default[:2]

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """ComfyUI's options: ``layer``, ``projected_pooled`` and ``execution_device``."""
        if "layer" in options and self.layer != "all":
            layer_idx = options["layer"]
            if layer_idx is None:
                self.layer, self.layer_idx = "last", None
            else:
                self.layer, self.layer_idx = "hidden", self._checked_index(layer_idx)
        self.return_projected_pooled = options.get("projected_pooled", self.return_projected_pooled)
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self) -> None:
        """Return to what was chosen at construction."""
        self.layer, self.layer_idx, self.return_projected_pooled = self.options_default
        self.execution_device = None

    def layer_number(self) -> int:
        """The layer in use, counted from 0; "all" counts as the last."""
        if self.layer_idx is None:
            return self.num_layers - 1
        return self.layer_idx % self.num_layers

    def gen_empty_tokens(self, length: int) -> list[int]:
        """The empty prompt: start, end, and pads up to *length*."""
        special = self.special_tokens
        return [special["start"], special["end"]] + [special["pad"]] * (length - 2)

    def embed(self, chunks: Sequence[Sequence[Entry]]) -> tuple[Tensor, Tensor]:
        """Token vectors without positions, (B, T, W), and where to pool, (B,).

        A vector of another width than the encoder's is reported and left out. Chunks are filled up
        with pads to one length.
        """
        table = self.transformer.get_input_embeddings()
        device = self.execution_device or next(table.parameters()).device
        width = self.config.hidden_size
        end, pad = self.special_tokens["end"], self.special_tokens["pad"]
        ids: list[list[int]] = []
        vectors: list[tuple[int, int, Tensor]] = []
        pooled_at: list[int] = []
        for row, chunk in enumerate(chunks):
            places: list[int] = []
            for entry in chunk:
                if isinstance(entry, Integral):
                    places.append(int(entry))
                    continue
                vector = entry.get("data") if isinstance(entry, Mapping) else entry
                if not isinstance(vector, Tensor) or vector.shape[-1] != width:
                    found = tuple(vector.shape) if isinstance(vector, Tensor) else type(vector)
                    log.warning(
                        "An embedding of shape %s was ignored: this text encoder is %d wide.",
                        found,
                        width,
                    )
                    continue
                for one in vector.reshape(-1, width):
                    vectors.append((row, len(places), one))
                    places.append(pad)
            pooled_at.append(places.index(end) if end in places else len(places) - 1)
            ids.append(places)
        length = max(map(len, [*ids, *chunks]))
        if length > self.config.max_position_embeddings:
            raise OptionError(
                f"A chunk has {length} tokens; this text encoder has "
                f"{self.config.max_position_embeddings} positions."
            )
        padded = torch.tensor([row + [pad] * (length - len(row)) for row in ids], device=device)
        embeds: Tensor = table(padded).to(self.compute_dtype)
        for row, column, vector in vectors:
            embeds[row, column] = vector.to(embeds)
        return embeds, torch.tensor(pooled_at, device=device)

    def forward(self, tokens: Sequence[Sequence[Entry]]) -> tuple[Tensor, Tensor]:
        """Encode chunks of token ids and vectors, weights aside.

        Returns the layer's states, final layer norm applied, (B, T, W) — (B, L, T, W) for
        ``all`` — and the pooled vectors (B, W), both in float32.
        """
        number = self.layer_number()
        if number in self.identity_layers and not self._warned_identity:
            self._warned_identity = True
            log.warning(
                "Layer %d of %d was asked for, but the file has only %d: the result is that of "
                "layer %d, SD2's default.",
                number + 1,
                self.num_layers,
                number,
                number,
            )
        norm = self.transformer.text_model.final_layer_norm
        states_out, pooled_out = [], []
        for start in range(0, len(tokens), MAX_BATCH):
            embeds, pooled_at = self.embed(tokens[start : start + MAX_BATCH])
            wanted = range(self.num_layers) if self.layer == "all" else [number]
            states, last = self.transformer.text_model(embeds, wanted, pooled_at)
            z = [norm(states[index]) for index in wanted]
            pooled = norm(last)
            if self.return_projected_pooled:
                pooled = self.transformer.text_projection(pooled)
            states_out.append((torch.stack(z, dim=1) if self.layer == "all" else z[0]).float())
            pooled_out.append(pooled.float())
        return torch.cat(states_out), torch.cat(pooled_out)

    def encode(self, tokens: Sequence[Sequence[Entry]]) -> tuple[Tensor, Tensor]:
        """``forward``, under the name that other packs call."""
        return self(tokens)  # type: ignore[no-any-return]

    def encode_token_weights(
        self, token_weight_pairs: Sequence[Sequence[tuple[Any, ...]]]
    ) -> tuple[Tensor, Tensor]:
        """Chunks of ``(token, weight)`` to ``(cond, pooled)``, as ComfyUI does it.

        A token of weight w other than 1 becomes ``empty + w * (z - empty)``, where ``empty`` is the
        empty prompt's state at the same place. *cond* is (1, T * chunks, W); *pooled*, (1, W), is
        the first chunk's and is not weighted.
        """
        chunks = [[pair[0] for pair in chunk] for chunk in token_weight_pairs]
        weights = [[float(pair[1]) for pair in chunk] for chunk in token_weight_pairs]
        sections = len(chunks)
        weighted = any(weight != 1.0 for row in weights for weight in row)
        if weighted or not chunks:
            length = max(map(len, chunks), default=self.max_length)
            chunks.append(self.gen_empty_tokens(length))
        z, pooled = self(chunks)
        if weighted:
            z, empty = z[:-1], z[-1]
            length = z.shape[-2]
            # (sections, [1 for layers,] T, 1); places that no weight was given for keep theirs.
            rows = [row + [1.0] * (length - len(row)) for row in weights]
            w = torch.tensor(rows, device=z.device).view(sections, *[1] * (z.dim() - 3), length, 1)
            z = torch.where(w == 1.0, z, (z - empty) * w + empty)
        cond = torch.cat(list(z), dim=-2).unsqueeze(0)
        return cond.to(self.output_device), pooled[:1].to(self.output_device)

    def load_sd(self, sd: Mapping[str, Tensor]) -> Any:
        """Load ``text_model.*`` and ``text_projection.weight``; returns (missing, unexpected).

        A model built on the meta device takes the tensors over as they are, without a copy.
        """
        on_meta = next(self.transformer.parameters()).is_meta
        assign = on_meta or getattr(self, "can_assign_sd", False) is True
        return self.transformer.load_state_dict(sd, strict=False, assign=assign)


class SD1ClipModel(nn.Module):
    """Holds one ``SDClipModel`` under the name ``clip_<clip_name>``."""

    def __init__(
        self,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
        *,
        clip_name: str,
        clip_model: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        options = dict(model_options or {})
        self.clip_name = clip_name
        self.clip = f"clip_{clip_name}"
        clip_model = options.get(f"{self.clip}_class", clip_model)
        inner = clip_model(device=device, dtype=dtype, model_options=options, **kwargs)
        setattr(self, self.clip, inner)
        self.dtypes: set[torch.dtype] = set() if dtype is None else {dtype}

    @property
    def inner(self) -> Any:
        """The ``SDClipModel``."""
        return getattr(self, self.clip)

    def clip_layer(self, layer_idx: int | None) -> None:
        """Take hidden states from this layer from now on; None means the last one."""
        self.inner.clip_layer(layer_idx)

    def reset_clip_layer(self) -> None:
        """Return to the layer chosen at construction."""
        self.inner.reset_clip_layer()

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """ComfyUI's options: ``layer``, ``projected_pooled`` and ``execution_device``."""
        self.inner.set_clip_options(options)

    def reset_clip_options(self) -> None:
        """Return to what was chosen at construction."""
        self.inner.reset_clip_options()

    def encode_token_weights(self, token_weight_pairs: Mapping[str, Any]) -> Any:
        """``{clip_name: chunks}`` to ``(cond, pooled)``; see ``SDClipModel``."""
        return self.inner.encode_token_weights(token_weight_pairs[self.clip_name])

    def load_sd(self, sd: Mapping[str, Tensor]) -> Any:
        """Load ``text_model.*`` and ``text_projection.weight``; returns (missing, unexpected)."""
        return self.inner.load_sd(sd)
