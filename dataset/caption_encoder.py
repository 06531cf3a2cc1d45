"""Encodes captions to SD2's conditioning, a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from math import isnan
from os import PathLike
from typing import Any

import torch

from ..clip.load_clip import load_clip, parse_dtype
from ..host.interface import Clip
from ..sd2.config import CONTEXT_LENGTH, END_TOKEN
from ..sd2.errors import NotFiniteError, OptionError
from ..sd2.model.nonfinite import explain, find_nonfinite, is_finite
from ..sd2.model.onednn import FEW_ROWS
from ..sd2.tokens.bpe import clip_tokenizer
from ..sd2.tokens.chunks import MAX_TEXT_TOKENS, pad_chunk
from .tokenizers import TOKENIZERS, CaptionTokenizer, content_id, tokenize

STORES = ("fp16", "bf16", "fp32")

SMALLEST_BATCH = FEW_ROWS // CONTEXT_LENGTH + 1
"""With fewer, the CPU computes a batch in another way after a while: weights are packed."""

METADATA_KEY = "sd2_clip"
"""In the metadata of tables and files: the settings of their embeddings, as JSON."""


def _caption(value: Any) -> str:
    if value is None or (isinstance(value, float) and isnan(value)):  # pandas has NaN for none
        return ""
    if not isinstance(value, str):
        raise OptionError(f"A caption of the batch is not a text but {value!r:.80}.")
    return value


class CaptionEncoder:
    """Encodes captions in a loop, in ``map_batches`` of Ray Data or in ``map`` of datasets.

    A caption is plain text: brackets have no weight. It becomes one chunk of 77 tokens, cut and
    padded as in SD2's training; the result is the same as that of transformers for these tokens.
    The checkpoint is loaded when it is first needed, so that an encoder can be pickled and sent to
    a worker before. Where workers are forked (``num_proc`` of datasets), encode nothing before:
    torch's threads do not survive a fork.

    *checkpoint*, *device*, *dtype*, *layer*, *layer_idx* and *model_options* are ``load_clip``'s;
    *store* is the dtype of results (fp16, bf16, fp32), *column* the column of captions in batches,
    *tokenizer* is openclip or diffusers, which reads every ``!`` as padding. *batch_size* captions
    are encoded at a time, however large batches are; None: 32 on the CPU, 128 on a GPU.
    """

    def __init__(
        self,
        checkpoint: str | PathLike[str],
        *,
        device: str = "auto",
        dtype: str | None = None,
        layer: str = "penultimate",
        layer_idx: int | None = None,
        store: str = "fp16",
        pooled: bool = False,
        column: str = "caption",
        tokenizer: str = "openclip",
        batch_size: int | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        if layer == "all":
            raise OptionError("layer 'all' is not one layer; choose penultimate, last or hidden.")
        if layer == "hidden" and layer_idx is None:
            raise OptionError("layer 'hidden' needs layer_idx (--layer-idx), such as -3.")
        if tokenizer not in TOKENIZERS:
            raise OptionError(
                f"tokenizer {tokenizer!r} is unknown. Choose one of {', '.join(TOKENIZERS)}."
            )
        if batch_size is not None and batch_size < SMALLEST_BATCH:
            raise OptionError(
                f"A batch must have {SMALLEST_BATCH} captions or more, not {batch_size}."
            )
        self.checkpoint = checkpoint
        self.pooled = pooled
        self.column = column
        self.tokenizer = tokenizer
        self._device = device
        self._dtype = dtype
        self._layer = layer
        self._layer_idx = layer_idx
        self._store = store
        self._batch_size = batch_size
        self._model_options = dict(model_options or {})
        _ = self.store  # raises for an unknown dtype

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "clip"}

    @cached_property
    def clip(self) -> Clip:
        """The handle on the text encoder, without a cache of results."""
        clip = load_clip(
            self.checkpoint,
            device=self._device,
            dtype=self._dtype,
            layer=self._layer,
            layer_idx=self._layer_idx,
            model_options=self._model_options,
        )
        encoder = clip.cond_stage_model.clip_h
        batch_size = self._batch_size or encoder.setup.max_batch
        encoder.setup = replace(encoder.setup, cache=None, max_batch=batch_size)
        return clip

    @property
    def batch_size(self) -> int:
        """Captions that are encoded at a time."""
        size: int = self.clip.cond_stage_model.clip_h.setup.max_batch
        return size

    @property
    def store(self) -> torch.dtype:
        """The dtype of results."""
        if self._store not in STORES:
            raise OptionError(f"store {self._store!r} is unknown. Choose {', '.join(STORES)}.")
        dtype = parse_dtype(self._store)
        assert dtype is not None
        return dtype

    def settings(self) -> dict[str, Any]:
        """Return all that results depend on as JSON values; reads the weights for their digest."""
        model = self.clip.cond_stage_model
        layer = model.clip_h.layer_number() + 1
        return {
            "weights_sha256": model.source.digest(),
            "layer": f"{layer} of {model.clip_h.num_layers}, final layer norm applied",
            "computed_in": str(model.clip_h.setup.compute_dtype).removeprefix("torch."),
            "weights_in": str(model.source.placement.dtype).removeprefix("torch."),
            "stored_in": str(self.store).removeprefix("torch."),
            "pooled": self.pooled,
            "batch_size": self.batch_size,
            **CaptionTokenizer(self.tokenizer).settings(),
        }

    @property
    def width(self) -> int:
        """The width W of embeddings."""
        width: int = self.clip.cond_stage_model.clip_h.config.hidden_size
        return width

    @property
    def device(self) -> torch.device:
        """The device that encodes."""
        device: torch.device = self.clip.cond_stage_model.source.placement.load_device
        return device

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, uncut, without start and end."""
        return tokenize(texts, self.tokenizer)

    def encode(self, captions: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Encode token ids as ``tokenize`` returns them; see ``encode_chunks``."""
        return self.encode_chunks([pad_chunk(ids) for ids in captions])

    def encode_chunks(self, chunks: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Return ``caption_latents`` (N, 77, W) and, with *pooled*, ``caption_pooled`` (N, W).

        Results are on the CPU. Raises ``NotFiniteError`` if one contains NaN or infinity.
        """
        encoder = self.clip.cond_stage_model.clip_h
        if not chunks:
            width = encoder.config.hidden_size
            results = {"caption_latents": torch.empty(0, CONTEXT_LENGTH, width, dtype=self.store)}
            if self.pooled:
                projected = encoder.config.projection_dim
                results["caption_pooled"] = torch.empty(0, projected, dtype=self.store)
            return results
        with torch.no_grad():
            states, pooled = encoder.encode_chunks(chunks, len(chunks) if self.pooled else 0)
        # Cast and looked at on the device, which is faster, and leaves half as many bytes to copy.
        results = {"caption_latents": states.to(self.store)}
        if self.pooled:
            results["caption_pooled"] = pooled.to(self.store)
        for name, tensor in results.items():
            if not is_finite(tensor):
                finite = tensor.isfinite().flatten(1).all(1)
                tokens = chunks[int(finite.int().argmin())]
                first = clip_tokenizer().decode(tokens[1 : tokens.index(END_TOKEN, 1)])
                raise NotFiniteError(
                    f"{int((~finite).sum())} of {len(finite)} captions have NaN or infinity in "
                    f"{name}, first {first[:80]!r}. {self._cause(chunks)}"
                )
        return {name: tensor.cpu() for name, tensor in results.items()}

    def _cause(self, chunks: Sequence[Sequence[int]]) -> str:
        """Say in a sentence why the embeddings of *chunks* are not finite."""
        encoder = self.clip.cond_stage_model.clip_h
        with torch.no_grad():
            origin = find_nonfinite(
                encoder.transformer,
                lambda: encoder.encode_chunks(chunks, len(chunks) if self.pooled else 0),
            )
        if origin is None:
            return f"They are too large for {self._store}: store bf16 or fp32."
        return explain(origin, self.clip.cond_stage_model.source)

    def __call__(self, batch: Any) -> Any:
        """Return *batch* with the embeddings of its captions: for ``map_batches`` and ``map``.

        A caption that is None or NaN is the empty one. A batch is a dict of columns, which gets
        numpy arrays, or a pyarrow table, which gets fixed-shape tensors and, in its metadata under
        ``sd2_clip``, the settings. Adds ``caption_latents`` (N, 77, W), ``caption_pooled`` (N, W)
        with *pooled*, ``token_count`` (N,) before cutting, ``truncated`` (N,), and ``content_id``
        (N,), equal for captions with equal tokens, which are encoded once.
        """
        if self.store == torch.bfloat16:
            raise OptionError("numpy has no bf16; use store='fp16' or 'fp32' for batches.")
        if isinstance(batch, Mapping):
            return {**batch, **self._columns(batch, list(batch))}
        from .arrow_table import with_columns

        columns = self._columns(batch, batch.column_names)
        return with_columns(batch, columns, {METADATA_KEY: json.dumps(self.settings())})

    def _columns(self, batch: Any, names: Sequence[Any]) -> dict[str, Any]:
        import numpy as np

        if self.column not in names:
            raise OptionError(
                f"The batch has no column {self.column!r} of captions. Columns: "
                f"{', '.join(map(str, names))}. Choose one: CaptionEncoder(…, column=…)."
            )
        texts = batch[self.column]
        if isinstance(texts, str):
            raise OptionError(
                f"The batch's {self.column!r} is one text, not a list of them: datasets needs "
                "map(…, batched=True)."
            )
        if hasattr(texts, "to_pylist"):
            texts = texts.to_pylist()
        ids = self.tokenize([_caption(text) for text in texts])
        chunks = [tuple(pad_chunk(one)) for one in ids]
        distinct = {chunk: index for index, chunk in enumerate(dict.fromkeys(chunks))}
        row_of = np.array([distinct[chunk] for chunk in chunks], dtype=np.int64)
        counts = np.array([len(one) for one in ids], dtype=np.int32)
        encoded = self.encode_chunks(list(distinct))
        identities = np.array([content_id(chunk) for chunk in distinct] or [""], dtype=object)
        return {
            **{name: tensor.numpy()[row_of] for name, tensor in encoded.items()},
            "token_count": counts,
            "truncated": counts > MAX_TEXT_TOKENS,
            "content_id": identities[row_of],
        }
