"""Encodes text into conditioning, with any CLIP handle that holds SD2's text encoder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import weight_files
from ..sd2.errors import NotFiniteError, OptionError, SD2ClipError
from ..sd2.model.token_weights import plan_weighting, with_normalized_weights
from ..sd2.sd2_tokenizer import SD2Tokenizer
from ..sd2.tokens.tokenize_text import PromptSchedule, ScheduledPrompt, tokenize_text
from ..sd2.tokens.tokenized_text import TokenizedText
from .encode_options import EncodeOptions
from .provenance import RECORD_KEY, EncodingRecord, patches_of

if TYPE_CHECKING:
    import torch

    from ..host.interface import Clip, Conditioning, Tokens

log = logging.getLogger("sd2_clip")


class WrongClipError(SD2ClipError):
    """A CLIP input is empty, or is another model's text encoder."""


@dataclass(frozen=True)
class EncodedText:
    """The conditioning of a text, and a report of how it was encoded."""

    conditioning: Conditioning
    report: str


def tokenizer_for(clip: Clip | None) -> SD2Tokenizer:
    """Return our tokenizer with the embedding folders and the width of *clip*.

    *clip* may come from any loader, if it holds SD2's text encoder.
    """
    if clip is None:
        raise WrongClipError(
            "The clip input is empty: the loader found no text encoder in its file. Connect Load "
            "SD2 CLIP, which reports what the file holds."
        )
    tokenizer = getattr(clip, "tokenizer", None)
    if tokenizer is None or not hasattr(clip, "cond_stage_model"):
        raise WrongClipError(
            f"The clip input is a {type(clip).__name__}, not a CLIP. Connect Load SD2 CLIP."
        )
    if isinstance(tokenizer, SD2Tokenizer):
        return tokenizer
    foreign = getattr(tokenizer, "clip_h", None)
    if foreign is None or not hasattr(clip.cond_stage_model, "clip_h"):
        parts = sorted(name for name in vars(tokenizer) if name not in ("clip", "clip_name"))
        raise WrongClipError(
            f"This CLIP is not a Stable Diffusion 2.x text encoder but a "
            f"{type(clip.cond_stage_model).__name__} ({', '.join(parts)}). Connect Load SD2 CLIP, "
            "or encode with the node for that model."
        )
    ours = SD2Tokenizer(embedding_directory=foreign.embedding_directory)
    ours.clip_h.embedding_size = foreign.embedding_size
    return ours


def tokenize_with(tokenizer: SD2Tokenizer, text: str, options: EncodeOptions) -> PromptSchedule:
    """Tokenize *text* as ``encode_text`` does."""
    return tokenize_text(
        tokenizer.clip_h,
        text,
        syntax=options.syntax,
        steps=options.steps,
        chunk_split=options.chunk_split,
        padding=options.padding,
    )


def encode_text(clip: Clip, text: str, **options: Any) -> EncodedText:
    """Encode *text*; keyword arguments are the fields of ``EncodeOptions``.

    In A1111's syntax the conditioning may have several entries, with ``start_percent``,
    ``end_percent`` and ``strength``.
    """
    chosen = EncodeOptions(**options)
    schedule = tokenize_with(tokenizer_for(clip), text, chosen)
    if schedule.error:
        raise OptionError(schedule.error)
    clip = _at_layer(clip, chosen.stop_at_clip_layer)
    encoded: dict[str, Conditioning] = {}
    conditioning: Conditioning = []
    for prompt in schedule.prompts:
        if prompt.text not in encoded:
            prompt.tokens.log_ignored()
            encoded[prompt.text] = [
                [cond, {**given, RECORD_KEY: _record(clip, text, prompt, chosen)}]
                for cond, given in _encode_rows(clip, prompt.tokens, chosen)
            ]
        schedule_of = dict(_schedule_of(prompt))
        conditioning += [[cond, {**given, **schedule_of}] for cond, given in encoded[prompt.text]]
    report = [schedule.report(), layer_text(clip), pooled_text(clip)]
    return EncodedText(conditioning, "\n".join(filter(None, report)))


def _at_layer(clip: Clip, stop_at_clip_layer: int) -> Clip:
    """Return *clip*, or a clone that stops at another layer."""
    if not stop_at_clip_layer:
        return clip
    if getattr(clip.cond_stage_model.clip_h, "layer", None) == "all":
        raise OptionError(
            "stop_at_clip_layer chooses one layer, and this CLIP was loaded to return all. "
            "Set it to 0, or load the CLIP with another layer."
        )
    clip = clip.clone()
    clip.clip_layer(stop_at_clip_layer)
    return clip


def _schedule_of(prompt: ScheduledPrompt) -> Iterator[tuple[str, float]]:
    """Yield the options that tell a sampler when a prompt holds, and how strongly."""
    if (prompt.start, prompt.end) != (0.0, 1.0):
        yield "start_percent", prompt.start
        yield "end_percent", prompt.end
    if prompt.strength is not None:
        yield "strength", prompt.strength


def _encode_rows(clip: Clip, tokens: TokenizedText, options: EncodeOptions) -> Conditioning:
    """Encode *tokens*, and without padding keep the rows of start, tokens and end.

    Attention is causal, so padding changes no row before it. It does take part in the mean that
    ``A1111`` restores: so each row is the same with and without padding.
    """
    encoded = _encode_weighted(clip, tokens, options)
    if tokens.padded:
        return encoded
    return [[cond[..., : tokens.row_count, :].clone(), given] for cond, given in encoded]


def _encode_weighted(clip: Clip, tokens: TokenizedText, options: EncodeOptions) -> Conditioning:
    """Encode *tokens* in one call, which returns several entries if patches are scheduled."""
    interpretation, normalization = options.weight_interpretation, options.token_normalization
    chunks = tokens.pairs(word_ids=True)
    if interpretation == "comfy":  # the text encoder applies it
        plain = normalization == "none"
        pairs = tokens.pairs() if plain else with_normalized_weights(chunks, normalization)
        return _encode(clip, {"h": pairs})
    plan = plan_weighting(chunks, interpretation, normalization)
    weightless = [[(value, 1.0) for value in chunk] for chunk in plan.chunks]
    length = len(plan.chunks[0])
    conditioning = []
    for cond, given in _encode(clip, {"h": weightless}):
        if cond.dim() != 3:
            raise OptionError(
                f"weight_interpretation {interpretation!r} weights the states of one layer, and "
                "this CLIP returns all layers. Load it with another layer, or choose 'comfy'."
            )
        states = cond.reshape(-1, length, cond.shape[-1])
        conditioning.append([plan.combine(states), given])
    return conditioning


def _record(
    clip: Clip, text: str, prompt: ScheduledPrompt, options: EncodeOptions
) -> EncodingRecord:
    return EncodingRecord.of(
        text=text,
        prompt=prompt.text,
        options=options,
        layer=layer_text(clip),
        tokens=prompt.tokens,
        dtype=str(_weights_dtype(clip)).removeprefix("torch."),
        source=getattr(clip.cond_stage_model, "source", None),
        patches=patches_of(clip),
    )


def _weights_dtype(clip: Clip) -> torch.dtype:
    inner = clip.cond_stage_model.clip_h
    if hasattr(inner, "weights_dtype"):
        return inner.weights_dtype()  # type: ignore[no-any-return]
    return next(inner.transformer.parameters()).dtype  # type: ignore[no-any-return]


def _encode(clip: Clip, tokens: Tokens) -> Conditioning:
    """Encode *tokens*; raises NotFiniteError rather than return NaN or infinity."""
    from ..sd2.model.nonfinite import is_finite

    return [
        [cond, given]
        if is_finite(cond, given.get("pooled_output"))
        else _without_nonfinite(clip, tokens, cond, given)
        for cond, given in _encode_any(clip, tokens)
    ]


def _encode_any(clip: Clip, tokens: Tokens) -> Conditioning:
    if hasattr(clip, "encode_from_tokens_scheduled"):
        return clip.encode_from_tokens_scheduled(tokens)
    # ComfyUI before December 2024
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return [[cond, {"pooled_output": pooled}]]


def _without_nonfinite(
    clip: Clip, tokens: Tokens, cond: torch.Tensor, given: dict[str, Any]
) -> list[Any]:
    """Make an entry finite where that is right, or raise NotFiniteError, which names the cause.

    Token weights of 1e38 cause infinities; these become the largest finite values.
    """
    import torch

    from ..sd2.model.nonfinite import explain, find_nonfinite, is_finite

    weightless = {"h": [[(pair[0], 1.0) for pair in chunk] for chunk in tokens["h"]]}

    def encode() -> list[torch.Tensor | None]:
        return [
            tensor
            for cond, given in _encode_any(clip, weightless)
            for tensor in (cond, given.get("pooled_output"))
        ]

    origin = find_nonfinite(clip.cond_stage_model.clip_h.transformer, encode)
    if origin is None:
        largest = torch.finfo(cond.dtype).max
        return [cond.clamp(-largest, largest), given]
    source = getattr(clip.cond_stage_model, "source", None)
    message = explain(origin, source, patches_of(clip))
    if source is not None or not is_finite(cond):
        raise NotFiniteError(message)
    # ComfyUI's loader leaves layer 24 of a file with 23 layers as unset memory.
    log.warning("The pooled vector is set to zeros, all else is right. %s", message)
    return [cond, {**given, "pooled_output": torch.zeros_like(given["pooled_output"])}]


def layer_text(clip: Clip) -> str:
    """Describe the layer that *clip* encodes with: "layer 23 of 24, SD2's default"."""
    inner = clip.cond_stage_model.clip_h
    count: int = inner.num_layers
    # ComfyUI of 2023 had no options but the layer.
    default = inner.options_default if hasattr(inner, "options_default") else inner.layer_default
    if default[0] == "all":
        return f"all {count} layers"
    layer_idx = default[1] if clip.layer_idx is None else clip.layer_idx
    number = count if layer_idx is None else layer_idx % count + 1
    known = {count: "the very last", count - 1: "SD2's default"}
    setup = getattr(inner, "setup", None)
    if setup is not None and number - 1 in setup.placeholder_layers:
        return f"layer {number} of {count}, absent from the file: same as layer {count - 1}"
    return ", ".join(filter(None, (f"layer {number} of {count}", known.get(number))))


def pooled_text(clip: Clip) -> str:
    """Say how pooled vectors differ from those of a complete file; "" if they do not."""
    limits = getattr(clip.cond_stage_model.clip_h, "pooled_limits", None)
    return limits() if limits is not None else ""


def embeddings_fingerprint(text: str | None, syntax: str | None = "comfy") -> str:
    """Return a value that changes if a textual inversion of *text* is edited, added or removed.

    All files count if the text is not known yet (None), and in A1111's syntax, where any word may
    name one.
    """
    folders = [str(folder) for folder in host.current().model_folders("embeddings")]
    if text is None or syntax != "comfy":
        files = [Path(f, name) for f in folders for name in weight_files(Path(f), [""])]
        found = ((file, file.stat()) for file in files if file.is_file())
        stats = [(str(file), stat.st_mtime_ns, stat.st_size) for file, stat in found]
        return hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    if "embedding:" not in text:
        return ""
    tokens = SD2Tokenizer(embedding_directory=folders).clip_h.tokenize(text)
    return json.dumps([[one.path, one.sha256] for one in tokens.embeddings])
