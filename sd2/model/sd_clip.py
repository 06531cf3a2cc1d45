"""ComfyUI's two text encoder bases, ``SDClipModel`` and ``SD1ClipModel``, as SD2 needs them.

Names, options and values are ComfyUI's, so that its nodes, LoRA tools and other packs work on our
model.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from ..config import DEFAULT_LOGIT_SCALE, TextEncoderConfig
from ..errors import LayerError, OptionError, UnreadableFileError
from .encode_cache import Chunk, EncodeCache
from .encoder_setup import SETUP_KEY, EncoderSetup
from .nonfinite import explain, find_nonfinite, is_finite
from .ops import layer_classes
from .text_model import CLIPTextModel, EncoderLayer, KVCache

log = logging.getLogger("sd2_clip")

Entry = Any
"""One position of a chunk: a token id, or a vector (a row of a textual inversion)."""


class PromptBatch(list[Any]):
    """Chunks of several prompts, for one call of a host: the first chunk of each, then the rest.

    A list, so that hosts and other text encoders take it for the chunks of one long prompt.
    """

    def __init__(self, first: Sequence[Any], rest: Sequence[Any] = ()) -> None:
        super().__init__([*first, *rest])
        self.prompts = len(first)


def _widen(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Convert weights that are stored narrower than *dtype*, so that values of it can be copied in.

    Through ``data``, so that other encoders with the same parameters see what is copied.
    """
    for parameter in module.parameters():
        if dtype is not None and parameter.dtype.itemsize < dtype.itemsize:
            parameter.data = parameter.data.to(dtype)


def _is_identity_layer(layer: EncoderLayer) -> bool:
    """Tell whether a block's two outputs are zero, so that it passes its input on unchanged."""
    outputs = (layer.self_attn.out_proj, layer.mlp.fc2)
    return not any(tensor.float().any() for output in outputs for tensor in output.parameters())


class SDClipModel(nn.Module):
    """A CLIP text encoder: chunks of tokens to hidden states and pooled vectors.

    ``model_options`` may hold layer classes as ``custom_operations``, and an ``EncoderSetup`` as
    ``encoder_setup``.
    """

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
                f"max_length {max_length} is not possible: this text encoder has "
                f"{config.max_position_embeddings} positions. Choose 3 to "
                f"{config.max_position_embeddings}."
            )
        self.config = config
        self.max_length = max_length
        self.num_layers = config.num_hidden_layers
        self.special_tokens = {
            "start": config.bos_token_id,
            "end": config.eos_token_id,
            "pad": config.pad_token_id,
        }
        options = model_options or {}
        self.setup: EncoderSetup = options.get(SETUP_KEY, EncoderSetup())
        operations = options.get("custom_operations")
        if operations is None:
            operations = layer_classes(self.setup.product_dtype)
        self.transformer = CLIPTextModel(config, operations, device=device, dtype=dtype)
        self.logit_scale = nn.Parameter(torch.tensor(DEFAULT_LOGIT_SCALE, device=device))
        if freeze:
            self.freeze()

        self._warnings: set[str] = set()

        self.layer, self.layer_idx = self._checked_layer(layer, layer_idx)
        self.return_projected_pooled = return_projected_pooled
        self.execution_device: torch.device | None = None
        self.options_default = (self.layer, self.layer_idx, return_projected_pooled)

    def freeze(self) -> None:
        """Switch to evaluation mode and turn gradients off."""
        self.train(False)
        self.requires_grad_(False)

    def _checked_layer(self, layer: str, layer_idx: int | None) -> tuple[str, int | None]:
        if layer not in self.LAYERS:
            raise LayerError(
                f"layer {layer!r} does not exist. Choose one of: {', '.join(self.LAYERS)}."
            )
        if layer != "hidden":
            if layer_idx is not None:
                raise LayerError(
                    f"layer_idx {layer_idx} is only for layer 'hidden', not for {layer!r}."
                )
            return layer, None
        return layer, self._checked_index(layer_idx)

    def _checked_index(self, layer_idx: Any) -> int:
        count = self.num_layers
        if isinstance(layer_idx, bool) or not isinstance(layer_idx, Integral):
            raise LayerError(f"layer_idx {layer_idx!r} is not an integer. {self._layer_choices()}")
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
        """Return the states of this layer from now on; None means the last layer.

        See ``set_clip_options`` for layer "all".
        """
        self.set_clip_options({"layer": layer_idx})

    def reset_clip_layer(self) -> None:
        """Return to the layer chosen at construction."""
        self.layer, self.layer_idx = self.options_default[:2]

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """Set ComfyUI's options: ``layer``, ``projected_pooled`` and ``execution_device``.

        A model that was built with layer "all" ignores ``layer``, as ComfyUI's does.
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
        """Return to the options chosen at construction."""
        self.layer, self.layer_idx, self.return_projected_pooled = self.options_default
        self.execution_device = None

    def layer_number(self) -> int:
        """Return the layer in use, counted from 0; "all" counts as the last."""
        if self.layer_idx is None:
            return self.num_layers - 1
        return self.layer_idx % self.num_layers

    def gen_empty_tokens(self, length: int) -> list[int]:
        """Return the empty prompt: start, end, and padding up to *length*."""
        special = self.special_tokens
        return [special["start"], special["end"]] + [special["pad"]] * (length - 2)

    def read_chunks(self, tokens: Sequence[Sequence[Entry]], pooled: int) -> list[Chunk]:
        """Return *tokens* padded to one length, with pooled vectors for the first *pooled* ones.

        A vector whose width is not the encoder's is reported and left out.
        """
        end, pad = self.special_tokens["end"], self.special_tokens["pad"]
        rows = [self._entries(row) for row in tokens]
        length = max(map(len, [*rows, *tokens]))
        if length > self.config.max_position_embeddings:
            raise OptionError(
                f"A chunk has {length} tokens; this text encoder has "
                f"{self.config.max_position_embeddings} positions."
            )
        chunks = []
        for number, row in enumerate(rows):
            ends = (i for i, entry in enumerate(row) if isinstance(entry, int) and entry == end)
            pooled_at = next(ends, len(row) - 1) if number < pooled else None
            chunks.append(Chunk((*row, *[pad] * (length - len(row))), pooled_at))
        return chunks

    def _entries(self, row: Sequence[Entry]) -> Sequence[int | Tensor]:
        """Return token ids and vectors of the right width, one for each position."""
        if all(type(entry) is int for entry in row):
            return row
        width, dtype = self.config.hidden_size, self.setup.compute_dtype
        entries: list[int | Tensor] = []
        for entry in row:
            if isinstance(entry, Integral):
                entries.append(int(entry))
                continue
            vector = entry.get("data") if isinstance(entry, Mapping) else entry
            if isinstance(vector, Tensor) and vector.shape[-1] == width:
                entries += vector.reshape(-1, width).to("cpu", dtype)
            else:
                log.warning(
                    "An embedding of shape %s was ignored: this text encoder is %d wide.",
                    tuple(vector.shape) if isinstance(vector, Tensor) else type(vector),
                    width,
                )
        return entries

    def embed(self, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
        """Return token vectors with positions added, (B, T, W), and positions to pool at, (P,).

        The device gets two uploads at most: all integers, and all vectors if there are any.
        """
        table = self.transformer.get_input_embeddings()
        device = self.execution_device or next(table.parameters()).device
        pad = self.special_tokens["pad"]
        ids: list[int] = []
        at, vectors = [], []
        for place, entry in enumerate(chain.from_iterable(chunk.entries for chunk in chunks)):
            if isinstance(entry, int):
                ids.append(entry)
            else:
                ids.append(pad)
                at.append(place)
                vectors.append(entry)
        pooled_at = [chunk.pooled_at for chunk in chunks if chunk.pooled_at is not None]
        # torch takes seven times as long for a list, and a GPU waits for it.
        numbers = array("q", [*ids, *pooled_at, *at])
        integers = torch.frombuffer(numbers, dtype=torch.int64).to(device)
        of_ids, of_pooled, of_vectors = torch.split(integers, [len(ids), len(pooled_at), len(at)])
        embeds: Tensor = table(of_ids).to(self.setup.compute_dtype)
        if vectors:
            embeds = embeds.index_copy(0, of_vectors, torch.stack(vectors).to(device))
        embeds = embeds.view(len(chunks), -1, embeds.shape[-1])
        return self.transformer.text_model.with_positions(embeds), of_pooled

    def forward(self, tokens: Sequence[Sequence[Entry]]) -> tuple[Tensor, Tensor]:
        """Encode chunks of token ids and vectors, without weights.

        Returns the states of the layer after the final layer norm, (B, T, W), or (B, L, T, W) for
        layer "all", and the pooled vectors, (B, W). Both are float32.
        """
        return self.encode_chunks(tokens, len(tokens))

    def encode_chunks(
        self, tokens: Sequence[Sequence[Entry]], pooled: int
    ) -> tuple[Tensor, Tensor]:
        """Encode as ``forward`` does, with pooled vectors for the first *pooled* chunks only."""
        self.check_files()
        self._warn_of_placeholders(pooled)
        cache = self._usable_cache()
        states_out, pooled_out = [], []
        step = self.setup.max_batch
        for start in range(0, len(tokens), step):
            chunks = self.read_chunks(tokens[start : start + step], pooled - start)
            if cache is not None:
                states, last = cache.encode(self, chunks)
            else:
                states, last = self.compute(*self.embed(chunks), KVCache())
            states_out.append(states)
            pooled_out.append(last)
        if len(states_out) == 1:
            return states_out[0], pooled_out[0]
        return torch.cat(states_out), torch.cat(pooled_out)

    def _usable_cache(self) -> EncodeCache | None:
        """Return the cache, which stores results computed on the CPU in float32, if they are."""
        is_cacheable = (
            (self.execution_device is None or self.execution_device.type == "cpu")
            and self.setup.compute_dtype == torch.float32
            and self.layer != "all"
            and not torch.is_grad_enabled()
        )
        return self.setup.cache if is_cacheable else None  # which sees where the weights are

    def cache_key(self) -> tuple[Any, ...]:
        """Return what results of ``compute`` depend on besides the input and the weights."""
        return self.layer_number(), self.return_projected_pooled

    def compute(self, x: Tensor, pooled_at: Tensor, kv_cache: KVCache) -> tuple[Tensor, Tensor]:
        """Compute the states and pooled vectors that ``forward`` describes.

        *x*, *pooled_at* and *kv_cache* are those of ``TextTransformer.forward``.
        """
        norm = self.transformer.text_model.final_layer_norm
        layers = range(self.num_layers) if self.layer == "all" else [self.layer_number()]
        states, last = self.transformer.text_model(x, layers, pooled_at, kv_cache)
        z = [norm(states[index]) for index in layers]
        pooled = norm(last)
        if self.return_projected_pooled and len(pooled):
            pooled = self.transformer.text_projection(pooled)
        self.check_files()  # before anything is cached
        return (torch.stack(z, dim=1) if self.layer == "all" else z[0]).float(), pooled.float()

    def check_files(self) -> None:
        """Raise UnreadableFileError if weights are mapped from a file that was overwritten."""
        if self.setup.check_files is not None:
            try:
                self.setup.check_files()
            except UnreadableFileError:
                # On another device they are copies.
                if next(self.transformer.parameters()).device.type == "cpu":
                    raise

    def pooled_limits(self) -> str:
        """Say how pooled vectors differ from those of a complete file; "" if they do not."""
        return self.setup.pooled_limits(self.num_layers, projected=self.return_projected_pooled)

    def _warn_of_placeholders(self, pooled: int) -> None:
        """Log once for each reason that results pass through a part that the file lacks."""
        number = self.layer_number()
        absent = self.setup.placeholder_layers
        if number in absent:
            real = self.num_layers - len(absent)
            self._warn_once(
                f"layer {number + 1} was requested, but the file has only {real} layers: the "
                f"result is that of layer {real}, SD2's default"
            )
        if pooled:
            self._warn_once(self.pooled_limits())

    def _warn_once(self, message: str) -> None:
        if message and message not in self._warnings:
            self._warnings.add(message)
            log.warning("%s%s.", message[0].upper(), message[1:])

    def encode(self, tokens: Sequence[Sequence[Entry]]) -> tuple[Tensor, Tensor]:
        """Encode as ``forward`` does; other packs call this name."""
        return self(tokens)  # type: ignore[no-any-return]

    def encode_token_weights(
        self,
        token_weight_pairs: Sequence[Sequence[tuple[Any, ...]]],
        *,
        return_pooled: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Encode chunks of ``(token, weight)`` to ``(cond, pooled)`` as ComfyUI does.

        The state z of a token with weight w other than 1 becomes ``empty + w * (z - empty)``, where
        ``empty`` is the state of the empty prompt at the same position. *cond* is (1, T * chunks,
        W). *pooled*, (1, W), belongs to the first chunk and is not weighted; without
        *return_pooled* it is (0, W), and the last block and the projection are not computed for it.
        Of a ``PromptBatch``, *pooled* is (prompts, W).
        """
        prompts = getattr(token_weight_pairs, "prompts", 1)
        chunks = [[pair[0] for pair in chunk] for chunk in token_weight_pairs]
        weights = [[float(pair[1]) for pair in chunk] for chunk in token_weight_pairs]
        sections = len(chunks)
        weighted = any(weight != 1.0 for row in weights for weight in row)
        if weighted or not chunks:
            length = max(map(len, chunks), default=self.max_length)
            chunks.append(self.gen_empty_tokens(length))
        z, pooled = self.encode_chunks(chunks, prompts if return_pooled else 0)
        if weighted:
            z, empty = z[:-1], z[-1]
            length = z.shape[-2]
            # (sections, [1 for layers,] T, 1); positions without a weight get 1.
            rows = [row + [1.0] * (length - len(row)) for row in weights]
            w = torch.tensor(rows, dtype=z.dtype, device=z.device)
            w = w.view(sections, *[1] * (z.dim() - 3), length, 1)
            z = torch.where(w == 1.0, z, (z - empty) * w + empty)
        cond = z if sections == 1 else torch.cat(list(z), dim=-2).unsqueeze(0)
        cond, pooled = cond.to(self.setup.output_device), pooled.to(self.setup.output_device)
        # Where the result stays on a device, looking at it would wait for the device.
        if cond.device.type == "cpu" and not is_finite(cond, pooled):
            self._warn_of_nonfinite(chunks)
        return cond, pooled

    def _warn_of_nonfinite(self, chunks: Sequence[Sequence[Entry]]) -> None:
        """Log once for each cause that results hold NaN or infinity."""
        origin = find_nonfinite(self.transformer, lambda: self.encode_chunks(chunks, len(chunks)))
        if origin is None:
            self._warn_once("the encoding holds infinity: a token weight is too large")
        else:
            self._warn_once(explain(origin, self.setup.source).removesuffix("."))

    def load_sd(self, sd: Mapping[str, Tensor]) -> Any:
        """Load ``text_model.*`` and ``text_projection.weight``; returns (missing, unexpected).

        A model that was built on the meta device uses the tensors themselves, without a copy.
        """
        on_meta = next(self.transformer.parameters()).is_meta
        assign = on_meta or getattr(self, "can_assign_sd", False) is True
        if not assign:
            _widen(self.transformer, self.setup.weights_dtype)
        result = self.transformer.load_state_dict(sd, strict=False, assign=assign)
        if not on_meta:
            self.weights_changed()
        return result

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        if self.setup.cache is not None:
            self.setup.cache.clear()  # a host takes the encoder out of use, or weights change
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def weights_dtype(self) -> torch.dtype:
        """Return the dtype of the weights, though some may be stored in a narrower one."""
        stored = next(self.transformer.parameters()).dtype
        return stored if self.setup.weights_dtype is None else self.setup.weights_dtype

    def weights_changed(self) -> None:
        """Drop the facts that were true of the previous weights only."""
        layers = self.transformer.text_model.encoder.layers
        projection = self.transformer.text_projection.weight
        self.setup = replace(
            self.setup,
            source=None,
            check_files=None,
            placeholder_layers=frozenset(
                number
                for number in self.setup.placeholder_layers
                if _is_identity_layer(layers[number])  # type: ignore[arg-type]
            ),
            placeholder_projection=self.setup.placeholder_projection
            and torch.equal(projection.float().cpu(), torch.eye(*projection.shape)),
        )


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
        options = model_options or {}
        self.clip_name = clip_name
        self.clip = f"clip_{clip_name}"
        clip_model = options.get(f"{self.clip}_class", clip_model)
        inner = clip_model(device=device, dtype=dtype, model_options=options, **kwargs)
        setattr(self, self.clip, inner)
        self.dtypes: set[torch.dtype] = set() if dtype is None else {dtype}

    @property
    def inner(self) -> Any:
        """Return the ``SDClipModel``."""
        return getattr(self, self.clip)

    @property
    def source(self) -> Any:
        """Return where the weights came from; None if that is unknown."""
        return self.inner.setup.source

    def clip_layer(self, layer_idx: int | None) -> None:
        """Return the states of this layer from now on; None means the last layer."""
        self.inner.clip_layer(layer_idx)

    def reset_clip_layer(self) -> None:
        """Return to the layer chosen at construction."""
        self.inner.reset_clip_layer()

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """Set ComfyUI's options: ``layer``, ``projected_pooled`` and ``execution_device``."""
        self.inner.set_clip_options(options)

    def reset_clip_options(self) -> None:
        """Return to the options chosen at construction."""
        self.inner.reset_clip_options()

    def encode_token_weights(self, token_weight_pairs: Mapping[str, Any], **options: Any) -> Any:
        """Encode ``{clip_name: chunks}`` to ``(cond, pooled)``; see ``SDClipModel``."""
        return self.inner.encode_token_weights(token_weight_pairs[self.clip_name], **options)

    def load_sd(self, sd: Mapping[str, Tensor]) -> Any:
        """Load ``text_model.*`` and ``text_projection.weight``; returns (missing, unexpected)."""
        return self.inner.load_sd(sd)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load tensors by their full names, such as ``clip_h.transformer.text_model…``."""
        if not assign:
            _widen(self.inner.transformer, self.inner.setup.weights_dtype)
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        self.inner.weights_changed()
        return result
