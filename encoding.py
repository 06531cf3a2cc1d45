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

from . import host
from .sd2.errors import SD2ClipError
from .sd2.sd2_tokenizer import SD2Tokenizer
from .sd2.tokenized_text import TokenizedText
from .version import __version__

if TYPE_CHECKING:
    import torch

    from .host.interface import Clip, Conditioning, Tokens


class WrongClipError(SD2ClipError):
    """A CLIP input that is empty, or that is another model's text encoder."""


@dataclass(frozen=True)
class EncodingRecord:
    """How a conditioning was made; travels in its options and is saved with it."""

    text: str
    syntax: str
    layer: str
    tokens: TokenizedText
    model: Any
    """The text encoder; its ``source`` knows the file."""
    patches: int
    """How many of its weights a LoRA or a merge had changed."""
    cond_digest: str

    def as_json(self, cond: torch.Tensor) -> dict[str, Any]:
        """All of it as JSON-able values; *cond* is the tensor that is about to be saved."""
        source = getattr(self.model, "source", None)
        return {
            "text": self.text,
            "syntax": self.syntax,
            "layer": self.layer,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "weights": {
                "file": "loaded by another node" if source is None else str(source.detection.path),
                "sha256": None if source is None else source.digest(),
                "patched_tensors": self.patches,
            },
            "embeddings": [
                {"name": one.name, "sha256": one.sha256} for one in self.tokens.embeddings
            ],
            "ignored": [f"{one.name}: {one.reason}" for one in self.tokens.ignored],
            "warnings": list(self.tokens.warnings),
            "changed_since_encoding": tensor_digest(cond) != self.cond_digest,
            "version": __version__,
        }


@dataclass(frozen=True)
class Encoded:
    """A prompt's conditioning and what there is to say about it."""

    conditioning: Conditioning
    report: str


def tensor_digest(tensor: torch.Tensor) -> str:
    """SHA-256 over shape, dtype and bytes."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{list(tensor.shape)} {tensor.dtype}\n".encode())
    sha.update(tensor.flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()


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


def read_text(clip: Clip | None, text: str) -> TokenizedText:
    """*text* as the tokens that *clip* would encode."""
    return tokenizer_for(clip).clip_h.tokenize(text)


def encode_text(clip: Clip, text: str, *, stop_at_clip_layer: int = 0) -> Encoded:
    """Encode *text*; ``stop_at_clip_layer`` is 0 for the layer as loaded, or −24 to −1."""
    tokens = read_text(clip, text)
    if stop_at_clip_layer:
        clip = clip.clone()
        clip.clip_layer(stop_at_clip_layer)
    conditioning = _encode(clip, {"h": tokens.pairs()})
    model = clip.cond_stage_model
    patcher = getattr(clip, "patcher", None)
    for entry in conditioning:
        cond, options = entry
        options["sd2_clip"] = EncodingRecord(
            text=text,
            syntax="comfy",
            layer=layer_text(clip),
            tokens=tokens,
            model=model,
            patches=len(getattr(patcher, "patches", getattr(clip, "patched", ()))),
            cond_digest=tensor_digest(cond),
        )
    return Encoded(conditioning, tokens.report())


def _encode(clip: Clip, tokens: Tokens) -> Conditioning:
    if hasattr(clip, "encode_from_tokens_scheduled"):
        return clip.encode_from_tokens_scheduled(tokens)
    # ComfyUI before December 2024
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return [[cond, {"pooled_output": pooled}]]


def layer_text(clip: Clip) -> str:
    """The layer that *clip* encodes with, in absolute terms: "layer 23 of 24"."""
    inner = clip.cond_stage_model.clip_h
    count: int = inner.num_layers
    # ComfyUI of 2023 had no options but the layer.
    default = inner.options_default if hasattr(inner, "options_default") else inner.layer_default
    layer_idx = default[1] if clip.layer_idx is None else clip.layer_idx
    number = count if layer_idx is None else layer_idx % count + 1
    return f"layer {number} of {count}"


def token_table(tokens: TokenizedText) -> str:
    """The report, then a line for each token in order: chunk, id, weight, text."""
    lines = [tokens.report(), "", f"{'chunk':>5} {'id':>6} {'weight':>7}  text"]
    for row in tokens.rows():
        if row["kind"] in ("token", "embedding"):
            token = "-" if row["id"] is None else row["id"]
            lines.append(f"{row['chunk'] + 1:>5} {token:>6} {row['weight']:>7.3g}  {row['text']}")
    return "\n".join(lines)


def embeddings_identity(text: str | None) -> str:
    """Changes when a textual inversion that *text* names is edited, added or removed.

    None stands for a text that is not known yet: any of the files may be named in it.
    """
    folders = [str(folder) for folder in host.current().model_folders("embeddings")]
    if text is None:
        files = sorted(path for folder in folders for path in Path(folder).rglob("*"))
        stats = [(str(path), stat.st_mtime_ns, stat.st_size) for path, stat in _stats(files)]
        return hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    if "embedding:" not in text:
        return ""
    tokens = SD2Tokenizer(embedding_directory=folders).clip_h.tokenize(text)
    return json.dumps([[one.path, one.sha256] for one in tokens.embeddings])


def _stats(files: list[Path]) -> Any:
    return ((path, path.stat()) for path in files if path.is_file())


def save_with_record(
    folder: Path, prefix: str, conditioning: Conditioning, workflow: Mapping[str, str]
) -> Path:
    """Save under the next free name below *folder*; returns the path."""
    from .sd2.conditioning import next_path, save_conditioning

    plain = []
    for cond, options in conditioning:
        record = options.get("sd2_clip")
        if isinstance(record, EncodingRecord):
            options = {**options, "sd2_clip": record.as_json(cond)}
        plain.append([cond, options])
    path = next_path(folder, prefix)
    save_conditioning(path, plain, workflow)
    return path
