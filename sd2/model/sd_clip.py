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

from ..config import DEFAULT_LOGIT_SCALE, TextEncoderConfig
from ..errors import LayerError, OptionError
from . import ops as own_operations
from .encode_cache import Recall
from .text_model import CLIPTextModel, Past

log = logging.getLogger("sd2_clip")

Entry = Any
"""One place of a chunk: a token id, or a vector (a textual inversion's row)."""

MAX_BATCH = 32
"""Chunks per forward pass: bounds the memory that a prompt of any length takes."""


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
        operations = (model_options or {}).get("custom_operations") or own_operations
        self.transformer = CLIPTextModel(config, operations, device=device, dtype=dtype)
        self.logit_scale = nn.Parameter(torch.tensor(DEFAULT_LOGIT_SCALE, device=device))
        if freeze:
            self.freeze()

        self.compute_dtype = torch.float32
        """Of activations. A host may lower it on a device that computes faster so."""
        self.output_device: torch.device | None = torch.device("cpu")
        """Where ``encode_token_weights`` leaves its result; None: where it was computed."""
        self.identity_layers: frozenset[int] = frozenset()
        """Blocks that the file did not have and that pass their input on unchanged."""
        self.recall: Recall | None = None
        """Memory of what was encoded lately, for a host that wants it."""
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
        """Take hidden states from this layer from now on; None means the last one.

        See ``set_clip_options`` for layer "all".
        """
        self.set_clip_options({"layer": layer_idx})

    def reset_clip_layer(self) -> None:
        """Return to the layer chosen at construction."""
        self.layer, self.layer_idx = self.options_default[:2]

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """ComfyUI's options: ``layer``, ``projected_pooled`` and ``execution_device``.

        A model built with layer "all" keeps giving all of them, whatever ``layer`` says, as
        ComfyUI's does.
        """
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
        """Token vectors with positions, (B, T, W), and where to pool, (B,).

        A vector of another width than the encoder's is reported and left out. Chunks are filled up
        with pads to one length. Whatever the chunks hold, the device gets one table of numbers, and
        one of vectors if there are any.
        """
        table = self.transformer.get_input_embeddings()
        device = self.execution_device or next(table.parameters()).device
        width = self.config.hidden_size
        end, pad = self.special_tokens["end"], self.special_tokens["pad"]
        ids: list[list[int]] = []
        vectors: list[Tensor] = []
        vector_places: list[tuple[int, int]] = []
        pooled_at: list[int] = []
        for row, chunk in enumerate(chunks):
            places: list[int] = []
            for entry in chunk:
                if type(entry) is int or isinstance(entry, Integral):  # an abc takes its time
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
                    vectors.append(one)
                    vector_places.append((row, len(places)))
                    places.append(pad)
            pooled_at.append(places.index(end) if end in places else len(places) - 1)
            ids.append(places)
        length = max(map(len, [*ids, *chunks]))
        if length > self.config.max_position_embeddings:
            raise OptionError(
                f"A chunk has {length} tokens; this text encoder has "
                f"{self.config.max_position_embeddings} positions."
            )
        flat_places = [row * length + column for row, column in vector_places]
        padded = [token for row in ids for token in row + [pad] * (length - len(row))]
        numbers = torch.tensor(padded + pooled_at + flat_places).to(device)
        ids_end, pooled_end = len(padded), len(padded) + len(pooled_at)
        embeds: Tensor = table(numbers[:ids_end]).to(self.compute_dtype)
        if vectors:
            stacked = torch.stack([one.to("cpu", self.compute_dtype) for one in vectors])
            embeds = embeds.index_copy(0, numbers[pooled_end:], stacked.to(device))
        embeds = embeds.view(len(chunks), length, width)
        return self.transformer.text_model.with_positions(embeds), numbers[ids_end:pooled_end]

    def forward(self, tokens: Sequence[Sequence[Entry]]) -> tuple[Tensor, Tensor]:
        """Encode chunks of token ids and vectors, weights aside.

        Returns the layer's states, final layer norm applied, (B, T, W) — (B, L, T, W) for
        ``all`` — and the pooled vectors (B, W), both in float32.
        """
        return self.encode_chunks(tokens, len(tokens))

    def encode_chunks(
        self, tokens: Sequence[Sequence[Entry]], pooled: int
    ) -> tuple[Tensor, Tensor]:
        """``forward``, with pooled vectors for the first *pooled* chunks only: (pooled, W)."""
        self._warn_of_identity()
        recall = None if self.layer == "all" or torch.is_grad_enabled() else self.recall
        states_out, pooled_out = [], []
        for start in range(0, len(tokens), MAX_BATCH):
            x, pooled_at = self.embed(tokens[start : start + MAX_BATCH])
            pooled_at = pooled_at[: max(pooled - start, 0)]
            if recall is not None and x.device.type == "cpu" and x.dtype == torch.float32:
                states, last = recall.encode(self, x, pooled_at)
            else:
                states, last = self.compute(x, pooled_at, Past())
            states_out.append(states)
            pooled_out.append(last)
        if len(states_out) == 1:
            return states_out[0], pooled_out[0]
        return torch.cat(states_out), torch.cat(pooled_out)

    def purpose(self) -> tuple[Any, ...]:
        """What results of ``compute`` depend on besides input and weights."""
        return self.layer_number(), self.return_projected_pooled

    def compute(self, x: Tensor, pooled_at: Tensor, past: Past) -> tuple[Tensor, Tensor]:
        """States of the chosen layer and pooled rows, as ``forward`` describes them.

        *x*, *pooled_at* and *past* are ``TextTransformer.forward``'s.
        """
        norm = self.transformer.text_model.final_layer_norm
        wanted = range(self.num_layers) if self.layer == "all" else [self.layer_number()]
        states, last = self.transformer.text_model(x, wanted, pooled_at, past)
        z = [norm(states[index]) for index in wanted]
        pooled = norm(last)
        if self.return_projected_pooled and len(pooled):
            pooled = self.transformer.text_projection(pooled)
        return (torch.stack(z, dim=1) if self.layer == "all" else z[0]).float(), pooled.float()

    def _warn_of_identity(self) -> None:
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

    def encode(self, tokens: Sequence[Sequence[Entry]]) -> tuple[Tensor, Tensor]:
        """``forward``, under the name that other packs call."""
        return self(tokens)  # type: ignore[no-any-return]

    def encode_token_weights(
        self,
        token_weight_pairs: Sequence[Sequence[tuple[Any, ...]]],
        *,
        return_pooled: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Chunks of ``(token, weight)`` to ``(cond, pooled)``, as ComfyUI does it.

        A token of weight w other than 1 becomes ``empty + w * (z - empty)``, where ``empty`` is the
        empty prompt's state at the same place. *cond* is (1, T * chunks, W); *pooled*, (1, W), is
        the first chunk's and is not weighted; without *return_pooled* it is (0, W), and the last
        block and the projection are not computed for it.
        """
        chunks = [[pair[0] for pair in chunk] for chunk in token_weight_pairs]
        weights = [[float(pair[1]) for pair in chunk] for chunk in token_weight_pairs]
        sections = len(chunks)
        weighted = any(weight != 1.0 for row in weights for weight in row)
        if weighted or not chunks:
            length = max(map(len, chunks), default=self.max_length)
            chunks.append(self.gen_empty_tokens(length))
        z, pooled = self.encode_chunks(chunks, int(return_pooled))
        if weighted:
            z, empty = z[:-1], z[-1]
            length = z.shape[-2]
            # (sections, [1 for layers,] T, 1); places that no weight was given for keep theirs.
            rows = [row + [1.0] * (length - len(row)) for row in weights]
            w = torch.tensor(rows, dtype=z.dtype, device=z.device)
            w = w.view(sections, *[1] * (z.dim() - 3), length, 1)
            z = torch.where(w == 1.0, z, (z - empty) * w + empty)
        cond = z if sections == 1 else torch.cat(list(z), dim=-2).unsqueeze(0)
        return cond.to(self.output_device), pooled.to(self.output_device)

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

    def encode_token_weights(self, token_weight_pairs: Mapping[str, Any], **options: Any) -> Any:
        """``{clip_name: chunks}`` to ``(cond, pooled)``; see ``SDClipModel``."""
        return self.inner.encode_token_weights(token_weight_pairs[self.clip_name], **options)

    def load_sd(self, sd: Mapping[str, Tensor]) -> Any:
        """Load ``text_model.*`` and ``text_projection.weight``; returns (missing, unexpected)."""
        return self.inner.load_sd(sd)
