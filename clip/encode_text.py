"""From text to conditioning, on any handle that holds SD2's text encoder.

The nodes, the editor's routes, the command line and data sets all read text here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import weight_files
from ..sd2.errors import OptionError, SD2ClipError
from ..sd2.model.token_weights import plan_weighting, with_normalized_weights
from ..sd2.sd2_tokenizer import SD2Tokenizer
from ..sd2.tokens.tokenize_text import ReadPart, ReadText, read
from ..sd2.tokens.tokenized_text import TokenizedText
from .provenance import RECORD_KEY, EncodingRecord, patches_of

if TYPE_CHECKING:
    import torch

    from ..host.interface import Clip, Conditioning, Tokens


class WrongClipError(SD2ClipError):
    """A CLIP input that is empty, or that is another model's text encoder."""


@dataclass(frozen=True)
class Encoded:
    """A prompt's conditioning and what there is to say about it."""

    conditioning: Conditioning
    report: str


def tokenizer_for(clip: Clip | None) -> SD2Tokenizer:
    """Our tokenizer, set up for *clip*: its embedding folders and its encoder's width.

    *clip* may be ours or any loader's, as long as SD2's text encoder is in it.
    """
    if clip is None:
        raise WrongClipError(
            "The clip input is empty. The loader before it found no text encoder in its file; "
            "use Load SD2 CLIP, which says what the file holds."
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
            f"This CLIP is no Stable Diffusion 2.x text encoder but a "
            f"{type(clip.cond_stage_model).__name__} ({', '.join(parts)}). Connect Load SD2 CLIP, "
            "or encode with the node that goes with that model."
        )
    ours = SD2Tokenizer(embedding_directory=foreign.embedding_directory)
    ours.clip_h.embedding_size = foreign.embedding_size
    return ours


def read_text(
    clip: Clip | None,
    text: str,
    *,
    syntax: str = "comfy",
    steps: int = 0,
    chunk_split: str = "tokens",
) -> ReadText:
    """*text* as the tokens that *clip* would encode; see ``sd2.reading.read``."""
    return read(
        tokenizer_for(clip).clip_h, text, syntax=syntax, steps=steps, chunk_split=chunk_split
    )


def encode_text(
    clip: Clip,
    text: str,
    *,
    syntax: str = "comfy",
    weight_interpretation: str = "comfy",
    token_normalization: str = "none",
    stop_at_clip_layer: int = 0,
    steps: int = 0,
    chunk_split: str = "tokens",
    masking: str = "compatible",
) -> Encoded:
    """Encode *text*; ``stop_at_clip_layer`` is 0 for the layer as loaded, or -24 to -1.

    In A1111's dialect the conditioning may have several entries, with ``start_percent``,
    ``end_percent`` and ``strength``.
    """
    reading = read_text(clip, text, syntax=syntax, steps=steps, chunk_split=chunk_split)
    if reading.obstacle:
        raise OptionError(reading.obstacle)
    if stop_at_clip_layer:
        if getattr(clip.cond_stage_model.clip_h, "layer", None) == "all":
            raise OptionError(
                "stop_at_clip_layer chooses one layer, and this CLIP was loaded to give all. "
                "Set it to 0, or load the CLIP with another layer."
            )
        clip = clip.clone()
        clip.clip_layer(stop_at_clip_layer)
    options = {
        "syntax": syntax,
        "weight_interpretation": weight_interpretation,
        "token_normalization": token_normalization,
        "steps": steps,
        "chunk_split": chunk_split,
        "masking": masking,
    }
    encoded: dict[str, Conditioning] = {}
    conditioning: Conditioning = []
    for part in reading.parts:
        if part.text not in encoded:
            part.tokens.log_ignored()
            encoded[part.text] = _weighted(
                clip, part.tokens, weight_interpretation, token_normalization, masking
            )
        for cond, given in encoded[part.text]:
            entry = dict(given)
            if (part.start, part.end) != (0.0, 1.0):
                entry["start_percent"], entry["end_percent"] = part.start, part.end
            if part.strength is not None:
                entry["strength"] = part.strength
            entry[RECORD_KEY] = _record(clip, text, part, options, cond)
            conditioning.append([cond, entry])
    return Encoded(conditioning, f"{reading.report()}\n{layer_text(clip)}")


def _weighted(
    clip: Clip, tokens: TokenizedText, interpretation: str, normalization: str, masking: str
) -> Conditioning:
    """The tokens' conditioning, in one call of the text encoder: it may be patched over time."""
    chunks = tokens.pairs(word_ids=True)
    if interpretation == "comfy":  # the text encoder's own
        plain = normalization == "none"
        pairs = tokens.pairs() if plain else with_normalized_weights(chunks, normalization)
        return [[_finite(cond), given] for cond, given in _encode(clip, {"h": pairs})]
    plan = plan_weighting(chunks, interpretation, normalization, masking)
    weightless = [[(entry, 1.0) for entry in chunk] for chunk in plan.chunks]
    length = len(plan.chunks[0])
    conditioning = []
    for cond, given in _encode(clip, {"h": weightless}):
        if cond.dim() != 3:
            raise OptionError(
                f"weight_interpretation {interpretation!r} weighs the states of one layer, and "
                "this CLIP gives those of all. Load it with another layer, or choose 'comfy'."
            )
        states = cond.reshape(-1, length, cond.shape[-1])
        conditioning.append([plan.combine(states), given])
    return conditioning


def _finite(cond: torch.Tensor) -> torch.Tensor:
    """*cond*, with what a weight of 10 to the 38th makes infinite as large as it can be."""
    import torch

    if torch.isinf(cond).any():
        largest = torch.finfo(cond.dtype).max
        return cond.clamp(-largest, largest)
    return cond


def _record(
    clip: Clip,
    text: str,
    part: ReadPart,
    options: Mapping[str, Any],
    cond: torch.Tensor,
) -> EncodingRecord:
    from ..sd2.files.tensor_hash import tensor_digest

    return EncodingRecord(
        text=text,
        part=part.text,
        options=options,
        layer=layer_text(clip),
        tokens=part.tokens,
        dtype=str(next(clip.cond_stage_model.clip_h.transformer.parameters()).dtype).removeprefix(
            "torch."
        ),
        source=getattr(clip.cond_stage_model, "source", None),
        patches=patches_of(clip),
        cond_digest=tensor_digest(cond),
    )


def _encode(clip: Clip, tokens: Tokens) -> Conditioning:
    if hasattr(clip, "encode_from_tokens_scheduled"):
        return clip.encode_from_tokens_scheduled(tokens)
    # ComfyUI before December 2024
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return [[cond, {"pooled_output": pooled}]]


def layer_text(clip: Clip) -> str:
    """The layer that *clip* encodes with, in absolute terms: "layer 23 of 24, SD2's default"."""
    inner = clip.cond_stage_model.clip_h
    count: int = inner.num_layers
    # ComfyUI of 2023 had no options but the layer.
    default = inner.options_default if hasattr(inner, "options_default") else inner.layer_default
    if default[0] == "all":
        return f"all {count} layers"
    layer_idx = default[1] if clip.layer_idx is None else clip.layer_idx
    number = count if layer_idx is None else layer_idx % count + 1
    known = {count: "the very last", count - 1: "SD2's default"}
    absent = getattr(inner, "identity_layers", ())
    if number - 1 in absent:
        return f"layer {number} of {count}, absent from the file: same as layer {count - 1}"
    return ", ".join(filter(None, (f"layer {number} of {count}", known.get(number))))


def embeddings_identity(text: str | None, syntax: str | None = "comfy") -> str:
    """Changes when a textual inversion that *text* names is edited, added or removed.

    None stands for a text that is not known yet: any of the files may be named in it, and so with
    A1111's syntax, where any word may name one.
    """
    folders = [str(folder) for folder in host.current().model_folders("embeddings")]
    if text is None or syntax != "comfy":
        files = [Path(f, name) for f in folders for name in weight_files(Path(f), [""])]
        stats = [(str(file), stat.st_mtime_ns, stat.st_size) for file, stat in _stats(files)]
        return hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    if "embedding:" not in text:
        return ""
    tokens = SD2Tokenizer(embedding_directory=folders).clip_h.tokenize(text)
    return json.dumps([[one.path, one.sha256] for one in tokens.embeddings])


def _stats(files: list[Path]) -> Any:
    return ((path, path.stat()) for path in files if path.is_file())
