"""Captions to SD2's conditioning, a batch at a time."""

from __future__ import annotations

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
from ..sd2.model.nonfinite import explain, find_nonfinite
from ..sd2.tokens.bpe import clip_tokenizer
from ..sd2.tokens.chunks import MAX_TEXT_TOKENS, pad_chunk

STORES = ("fp16", "bf16", "fp32")


def _caption(value: Any) -> str:
    if value is None or (isinstance(value, float) and isnan(value)):  # pandas has NaN for none
        return ""
    if not isinstance(value, str):
        raise OptionError(f"A caption of the batch is no text but {value!r:.80}.")
    return value


class CaptionEncoder:
    """Captions to embeddings, for a loop or for ``map_batches`` of Ray Data, ``map`` of datasets.

    A caption is plain text: brackets weigh nothing. It is one chunk of 77 places, what does not fit
    is cut, and it is padded as SD2 pads; the result is what diffusers' pipelines of SD2 compute.
    The checkpoint is loaded when it is first needed, so that an encoder can be pickled and sent to
    a worker before it holds one. Where workers are forked (``num_proc`` of datasets), encode
    nothing before: torch's threads do not survive it.

    *checkpoint*, *device*, *dtype*, *layer*, *layer_idx* and *model_options* are ``load_clip``'s;
    *store* is the dtype of results (fp16, bf16, fp32), *column* where batches hold captions.
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
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        if layer == "all":
            raise OptionError("layer 'all' is no conditioning; choose penultimate, last or hidden.")
        if layer == "hidden" and layer_idx is None:
            raise OptionError("layer 'hidden' needs layer_idx (--layer-idx), such as -3.")
        self.checkpoint = checkpoint
        self.pooled = pooled
        self.column = column
        self._device = device
        self._dtype = dtype
        self._layer = layer
        self._layer_idx = layer_idx
        self._store = store
        self._model_options = dict(model_options or {})
        _ = self.store  # said now if there is no such dtype

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "clip"}

    @cached_property
    def clip(self) -> Clip:
        """The handle on the text encoder; nobody else's, so it remembers no results."""
        clip = load_clip(
            self.checkpoint,
            device=self._device,
            dtype=self._dtype,
            layer=self._layer,
            layer_idx=self._layer_idx,
            model_options=self._model_options,
        )
        encoder = clip.cond_stage_model.clip_h
        encoder.setup = replace(encoder.setup, cache=None)
        return clip

    @property
    def store(self) -> torch.dtype:
        """The dtype of results."""
        if self._store not in STORES:
            raise OptionError(f"store {self._store!r} is unknown. Choose {', '.join(STORES)}.")
        dtype = parse_dtype(self._store)
        assert dtype is not None
        return dtype

    def settings(self) -> dict[str, Any]:
        """All that results depend on, in JSON-able values; reads the weights once, for a digest."""
        model = self.clip.cond_stage_model
        layer = model.clip_h.layer_number() + 1
        return {
            "weights_sha256": model.source.digest(),
            "layer": f"{layer} of {model.clip_h.num_layers}, final layer norm applied",
            "computed_in": str(model.clip_h.setup.compute_dtype).removeprefix("torch."),
            "weights_in": str(model.source.placement.dtype).removeprefix("torch."),
            "stored_in": str(self.store).removeprefix("torch."),
            "pooled": self.pooled,
        }

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, uncut, without start and end."""
        return clip_tokenizer().encode_batch(texts)

    def encode(self, captions: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """``encode_chunks`` of token ids as ``tokenize`` gives them; more than 75 are cut."""
        return self.encode_chunks([pad_chunk(ids) for ids in captions])

    def encode_chunks(self, chunks: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """``caption_latents`` (N, 77, W) and, if asked for, ``caption_pooled`` (N, W); on the CPU.

        Raises ``NotFiniteError`` rather than give numbers that are none.
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
        results = {"caption_latents": states.to("cpu", self.store)}
        if self.pooled:
            results["caption_pooled"] = pooled.to("cpu", self.store)
        for name, tensor in results.items():
            finite = tensor.isfinite().flatten(1).all(1)
            if not finite.all():
                tokens = chunks[int(finite.int().argmin())]
                first = clip_tokenizer().decode(tokens[1 : tokens.index(END_TOKEN, 1)])
                raise NotFiniteError(
                    f"{int((~finite).sum())} of {len(finite)} captions have NaN or infinity in "
                    f"{name}, first {first[:80]!r}. {self._cause(chunks)}"
                )
        return results

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

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """*batch* with the embeddings of its captions, as numpy arrays: for ``map_batches``.

        A caption that is None or NaN, as tables have them where there is none, is the empty one.
        Adds ``caption_latents`` (N, 77, W), ``caption_pooled`` (N, W) if asked for, ``token_count``
        (N,) before cutting, and ``truncated`` (N,). numpy knows no bf16: store fp16 or fp32.
        """
        import numpy as np

        if self.store == torch.bfloat16:
            raise OptionError("numpy has no bf16; use store='fp16' or 'fp32' for batches.")
        if self.column not in batch:
            raise OptionError(
                f"The batch has no column {self.column!r} of captions, but "
                f"{', '.join(map(str, batch))}. Name it: CaptionEncoder(…, column=…)."
            )
        texts = batch[self.column]
        if isinstance(texts, str):
            raise OptionError(
                f"The batch's {self.column!r} is one text, not a list of them: datasets needs "
                "map(…, batched=True)."
            )
        ids = self.tokenize([_caption(text) for text in texts])
        counts = np.array([len(one) for one in ids], dtype=np.int32)
        return {
            **batch,
            **{name: tensor.numpy() for name, tensor in self.encode(ids).items()},
            "token_count": counts,
            "truncated": counts > MAX_TEXT_TOKENS,
        }
