"""Encodes text into conditioning, with any CLIP handle that holds SD2's text encoder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import weight_files
from ..sd2.errors import NotFiniteError, OptionError, SD2ClipError
from ..sd2.model.token_weights import WeightingPlan, plan_weighting, with_normalized_weights
from ..sd2.sd2_tokenizer import SD2Tokenizer
from ..sd2.tokens.tokenize_text import PromptSchedule, ScheduledPrompt, tokenize_text
from ..sd2.tokens.tokenized_text import TokenizedText
from .encode_options import EncodeOptions
from .provenance import RECORD_KEY, EncodingRecord, patches_of

if TYPE_CHECKING:
    import torch

    from ..host.interface import Clip, Conditioning, Tokens

log = logging.getLogger("sd2_clip")

BATCH = 32
"""Chunks of several prompts in one call of the handle."""


class WrongClipError(SD2ClipError):
    """A CLIP input is empty, or is another model's text encoder."""


@dataclass(frozen=True)
class EncodedText:
    """The conditioning of a text, and a report of how it was encoded."""

    conditioning: Conditioning
    report: str
    schedule: PromptSchedule
    """The tokens of each entry, in order."""


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
    [encoded] = encode_texts(clip, [text], **options)
    return encoded


def encode_texts(clip: Clip, texts: Sequence[str], **options: Any) -> list[EncodedText]:
    """Encode each of *texts* as ``encode_text`` does, in batches.

    A batch rounds its products otherwise than a single text: results differ by about 1e-5 from
    those of ``encode_text``. Equal prompts are encoded once.
    """
    chosen = EncodeOptions(**options)
    tokenizer = tokenizer_for(clip)
    schedules = [tokenize_with(tokenizer, text, chosen) for text in texts]
    for number, schedule in enumerate(schedules, 1):
        if schedule.error:
            which = f"Prompt {number} of {len(texts)}: " if len(texts) > 1 else ""
            raise OptionError(f"{which}{schedule.error}")
    clip = _at_layer(clip, chosen.stop_at_clip_layer)
    tokens = {prompt.text: prompt.tokens for one in schedules for prompt in one.prompts}
    for one in tokens.values():
        one.log_ignored()
    weighted = [_Weighted.of(one, chosen) for one in tokens.values()]
    encoded = dict(zip(tokens, _encode_prompts(clip, weighted), strict=True))
    about = [layer_text(clip), pooled_text(clip)]
    return [
        EncodedText(
            list(_entries(clip, text, schedule, chosen, encoded)),
            "\n".join(filter(None, [schedule.report(), *about])),
            schedule,
        )
        for text, schedule in zip(texts, schedules, strict=True)
    ]


def _entries(
    clip: Clip,
    text: str,
    schedule: PromptSchedule,
    options: EncodeOptions,
    encoded: Mapping[str, Conditioning],
) -> Iterator[list[Any]]:
    """Yield the entries of a text's conditioning; *encoded* are its prompts'."""
    records: dict[str, EncodingRecord] = {}
    for prompt in schedule.prompts:
        if prompt.text not in records:
            records[prompt.text] = _record(clip, text, prompt, options)
        about = {RECORD_KEY: records[prompt.text], **dict(_schedule_of(prompt))}
        for cond, given in encoded[prompt.text]:
            yield [cond, {**given, **about}]


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


@dataclass(frozen=True, eq=False)
class _Weighted:
    """A prompt's chunks as the text encoder gets them, and how to weight their states."""

    chunks: Sequence[Sequence[tuple[Any, ...]]]
    """The first one is the prompt's first."""
    interpretation: str
    plan: WeightingPlan | None = None
    """None if the text encoder itself applies the weights."""
    rows: int | None = None
    """Rows of the result that are kept, without padding; None: all."""

    @classmethod
    def of(cls, tokens: TokenizedText, options: EncodeOptions) -> _Weighted:
        interpretation, normalization = options.weight_interpretation, options.token_normalization
        rows = None if tokens.padded else tokens.row_count
        chunks = tokens.pairs(word_ids=True)
        if interpretation == "comfy":
            plain = normalization == "none"
            pairs = tokens.pairs() if plain else with_normalized_weights(chunks, normalization)
            return cls(pairs, interpretation, rows=rows)
        plan = plan_weighting(chunks, interpretation, normalization)
        weightless = [[(value, 1.0) for value in chunk] for chunk in plan.chunks]
        return cls(weightless, interpretation, plan, rows)

    @property
    def length(self) -> int:
        """The number of positions of a chunk."""
        return len(self.chunks[0])

    def combine(self, cond: torch.Tensor) -> torch.Tensor:
        """Return the conditioning, of the states of ``chunks`` one after the other.

        Attention is causal, so padding changes no row before it. It does take part in the mean that
        ``A1111`` restores: so each row is the same with and without padding.
        """
        weighted = self._weight(cond)
        return weighted if self.rows is None else weighted[..., : self.rows, :].clone()

    def _weight(self, cond: torch.Tensor) -> torch.Tensor:
        if self.plan is None:
            return cond
        if cond.dim() != 3:
            raise OptionError(
                f"weight_interpretation {self.interpretation!r} weights the states of one layer, "
                "and this CLIP returns all layers. Load it with another layer, or choose 'comfy'."
            )
        return self.plan.combine(cond.reshape(-1, self.length, cond.shape[-1]))


def _encode_prompts(clip: Clip, prompts: Sequence[_Weighted]) -> list[Conditioning]:
    """Encode each prompt, in batches where that is possible.

    A conditioning has several entries if patches are scheduled: then each prompt is a call.
    """
    found: dict[int, Conditioning] = {}
    for batch in [] if _has_hooks(clip) else _batches(prompts):
        states = _encode_batch(clip, [prompts[index] for index in batch])
        found.update(zip(batch, states, strict=False))  # states is empty if that failed
    return [
        [
            [prompt.combine(cond), given]
            for cond, given in found.get(index) or _encode(clip, {"h": prompt.chunks})
        ]
        for index, prompt in enumerate(prompts)
    ]


def _has_hooks(clip: Clip) -> bool:
    """Whether ComfyUI changes weights during sampling, or marks conditioning for that."""
    scheduled = getattr(getattr(clip, "patcher", None), "forced_hooks", None)
    return scheduled is not None or bool(getattr(clip, "apply_hooks_to_conds", None))


def _batches(prompts: Sequence[_Weighted]) -> list[list[int]]:
    """Return the numbers of the prompts of each batch: two or more, with chunks of one length."""
    is_weighted = any(pair[1] != 1.0 for one in prompts for chunk in one.chunks for pair in chunk)
    most = BATCH - is_weighted  # the empty prompt, which weights are measured from, is one more
    batches: list[list[int]] = []
    filling: dict[int, tuple[list[int], int]] = {}
    for index, prompt in enumerate(prompts):
        batch, room = filling.get(prompt.length, ([], 0))
        if len(prompt.chunks) > room:
            batch, room = [], most
            batches.append(batch)
        batch.append(index)
        filling[prompt.length] = batch, room - len(prompt.chunks)
    return [batch for batch in batches if len(batch) > 1]


def _encode_batch(clip: Clip, prompts: Sequence[_Weighted]) -> list[Conditioning]:
    """Encode *prompts* in one call of the handle, as if they were the chunks of one.

    Returns an empty list if the result is not finite, or not that of a batch.
    """
    from ..sd2.model.nonfinite import is_finite
    from ..sd2.model.sd_clip import PromptBatch

    count, length = len(prompts), prompts[0].length
    rest = [chunk for prompt in prompts for chunk in prompt.chunks[1:]]
    chunks = PromptBatch([prompt.chunks[0] for prompt in prompts], rest)
    with _pooled_vectors(clip.cond_stage_model.clip_h) as of_chunks:
        entries = _encode_any(clip, {"h": chunks})
    if len(entries) != 1:
        return []
    [(cond, given)] = entries
    pooled = given.get("pooled_output")
    if pooled is not None and len(pooled) != count and of_chunks:
        pooled = of_chunks[-1][:count].to(pooled)
    if pooled is None or len(pooled) != count or cond.shape[-2] != len(chunks) * length:
        return []
    if not is_finite(cond, pooled):
        return []
    states = cond.unflatten(-2, (len(chunks), length))
    results: list[Conditioning] = []
    next_rest = count
    for index, prompt in enumerate(prompts):
        more = len(prompt.chunks) - 1
        own = [index, *range(next_rest, next_rest + more)]
        next_rest += more
        # Copies: a view would keep the whole batch in memory, and in files of torch.save.
        one = states[..., own, :, :].flatten(-3, -2)
        results.append([[one, {**given, "pooled_output": pooled[index : index + 1].clone()}]])
    return results


@contextmanager
def _pooled_vectors(encoder: Any) -> Iterator[list[torch.Tensor]]:
    """Collect the pooled vectors of all chunks that *encoder*, if it is ComfyUI's, encodes.

    ComfyUI returns the first chunk's only. Our own encoder does not pass here.
    """
    collected: list[torch.Tensor] = []
    hook = encoder.register_forward_hook(lambda _m, _i, output: collected.append(output[1]))
    try:
        yield collected
    finally:
        hook.remove()


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
