"""Reads the vectors of textual inversions in every file format.

A file may have tensors for several text encoders. Their width decides first, their name second,
because names can be wrong: bundles exist whose ``clip_g`` is 768 wide, as for CLIP-L.
"""

import base64
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..config import TEXT_ENCODER_WIDTHS
from ..errors import SD2ClipError, and_more
from ..files.bounded_json import parse_json
from ..files.file_kinds import USE_CONDITIONING_LOADER, is_conditioning
from ..files.limits import MAX_EMBEDDING_JSON_BYTES, MAX_TENSOR_NAME, MAX_VECTORS
from ..files.png_text import PNG_SIGNATURE, read_png_texts
from ..files.safetensors_header import looks_like_safetensors, read_safetensors_header
from ..files.tensor_storage import copy_tensors
from ..files.torch_file import load_pickle

# A1111 packs a list as {"TORCHTENSOR": [...]} into base64 JSON, in a text chunk of this name.
_PNG_KEYWORD = "sd-ti-embedding"
_PNG_TENSOR = "TORCHTENSOR"


class UnusableEmbeddingError(SD2ClipError):
    """A file is not a textual inversion, or one for another text encoder."""


@dataclass(frozen=True)
class Vectors:
    """``rows`` (n, width), float32 on the CPU and finite, without ``dropped`` rows that are not."""

    rows: torch.Tensor
    dropped: int = 0
    left_out: tuple[str, ...] = ()
    """Names of other embeddings of this width in the file."""


def read_vectors(path: Path, width: int, key: str) -> Vectors:
    """Read the vectors of *width*; *key* is the encoder's name in files for several encoders.

    Raises UnusableEmbeddingError, UnreadableFileError or OSError.
    """
    with path.open("rb") as file:
        start = file.read(16)
    # Tensors created in ComfyUI's inference mode cannot be used outside of it.
    with torch.inference_mode(False), torch.no_grad():
        # Safetensors first: the length before the brace may have any bytes.
        if looks_like_safetensors(start):
            found, left_out = _read_safetensors(path, width, key)
        elif start.startswith(PNG_SIGNATURE):
            found, left_out = _choose(_read_png(path), width, key)
        else:
            found, left_out = _choose(load_pickle(path), width, key)
        rows = torch.cat([tensor.float().reshape(-1, width) for tensor in found])
        finite = rows.isfinite().all(dim=1)
        kept = rows if bool(finite.all()) else rows[finite]
    if not len(kept):
        raise UnusableEmbeddingError("all its vectors contain nan or inf")
    return Vectors(kept, len(rows) - len(kept), left_out)


def _choose(content: Any, width: int, key: str) -> tuple[list[torch.Tensor], tuple[str, ...]]:
    """The tensors of the embedding, and the names of others."""
    tensors = dict(_flatten(content))
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    names, left_out = choose_names(shapes, width, key, every=isinstance(content, list))
    return [tensors[name] for name in names], left_out


def _flatten(content: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the floating-point tensors of nested dicts and lists, named ``outer.inner``."""
    pending: list[tuple[str, Any]] = [("", content)]
    # A container that is used many times, or in itself, counts each time.
    seen = 0
    while pending:
        name, value = pending.pop()
        if isinstance(value, torch.Tensor):
            if value.is_floating_point():
                yield name, value
            continue
        items: Iterable[tuple[object, Any]] = ()
        if isinstance(value, Mapping):
            items = value.items()
        elif isinstance(value, list | tuple):
            items = enumerate(value)
        else:
            continue
        seen += len(value)
        if seen > MAX_VECTORS or len(name) > MAX_TENSOR_NAME:
            raise UnusableEmbeddingError(
                f"it holds more than {MAX_VECTORS:,} values, or itself: it is not a textual "
                "inversion"
            )
        pending.extend(
            (f"{name}.{key}" if name else str(key), inner) for key, inner in reversed([*items])
        )


def choose_names(
    shapes: Mapping[str, tuple[int, ...]], width: int, key: str, *, every: bool
) -> tuple[list[str], tuple[str, ...]]:
    """Choose the tensors of the embedding, never none; and the names of others of this width.

    With *every*, all tensors of *width* are the embedding's.
    """
    fitting = [name for name, shape in shapes.items() if shape[-1:] == (width,) and 0 not in shape]
    if not fitting:
        raise UnusableEmbeddingError(_misfit(shapes, width))
    chosen, left_out = (fitting, ()) if every else _one_embedding(fitting, shapes, key)
    rows = sum(prod(shapes[name][:-1]) for name in chosen)
    if rows > MAX_VECTORS:
        raise UnusableEmbeddingError(
            f"it has {rows:,} vectors; a textual inversion has at most {MAX_VECTORS:,}"
        )
    return chosen, left_out


def _one_embedding(
    fitting: list[str], shapes: Mapping[str, tuple[int, ...]], key: str
) -> tuple[list[str], tuple[str, ...]]:
    # A1111 names its one tensor '*'.
    if params := [name for name in fitting if name.startswith("string_to_param.")]:
        return params[:1], tuple(params[1:])
    if key in fitting:
        return [key], ()
    # LoRA files may carry some: bundle_emb.<name>.string_to_param.* or bundle_emb.<name>.<key>
    bundled = [name for name in fitting if name.startswith("bundle_emb.")]
    for ending in (".string_to_param.*", f".{key}"):
        if chosen := [name for name in bundled if name.endswith(ending)]:
            return chosen, ()
    if any(name.endswith(".weight") for name in shapes):
        raise UnusableEmbeddingError("it is a LoRA or a model, not a textual inversion")
    # kohya's emb_params, diffusers' <token>, a bare tensor
    chosen = _numbered(fitting)
    return chosen, tuple(name for name in fitting if name not in chosen)


def _numbered(names: list[str]) -> list[str]:
    """The first of *names*, and those that number more vectors of it: <x>, <x>_1, <x>_2, …"""
    first = min(names, key=len) if f"{min(names, key=len)}_1" in names else names[0]
    stem = first.removesuffix("_0")
    following = itertools.takewhile(
        names.__contains__, (f"{stem}_{number}" for number in range(1, len(names)))
    )
    return [first, *following]


def _misfit(shapes: Mapping[str, tuple[int, ...]], width: int) -> str:
    widths = sorted({shape[-1] for shape in shapes.values() if shape and 0 not in shape})
    if not widths:
        return "it holds no vectors"
    known = TEXT_ENCODER_WIDTHS
    found = and_more([f"{w} wide ({known[w]})" if w in known else f"{w} wide" for w in widths], 4)
    return f"its vectors are {found}; this text encoder takes {width}"


def _read_safetensors(
    path: Path, width: int, key: str
) -> tuple[list[torch.Tensor], tuple[str, ...]]:
    locations, metadata = read_safetensors_header(path)
    if is_conditioning({name: place.shape for name, place in locations.items()}, metadata):
        raise UnusableEmbeddingError(f"it is {USE_CONDITIONING_LOADER}")
    # Shapes first: the file may be a LoRA, or a whole model by mistake.
    shapes = {
        name: locations[name].shape
        for name in sorted(locations)
        if locations[name].dtype.startswith(("F", "BF"))
    }
    names, left_out = choose_names(shapes, width, key, every=False)
    tensors = copy_tensors({name: locations[name] for name in names})
    return [tensors[name] for name in names], left_out


def _read_png(path: Path) -> Any:
    text = read_png_texts(path, [_PNG_KEYWORD]).get(_PNG_KEYWORD)
    if text is None:
        raise UnusableEmbeddingError(
            f"this picture has no text chunk {_PNG_KEYWORD!r} (vectors hidden in its pixels are "
            "not read; take the .pt or .safetensors file)"
        )
    try:
        data = base64.b64decode(text)
        if len(data) > MAX_EMBEDDING_JSON_BYTES or data.count(_PNG_TENSOR.encode()) > MAX_VECTORS:
            raise UnusableEmbeddingError(
                f"the JSON in it has {len(data):,} bytes, or more tensors than a textual inversion "
                f"has; at most {MAX_EMBEDDING_JSON_BYTES:,} bytes are read"
            )
        return _png_tensors(parse_json(data))
    except UnusableEmbeddingError:
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise UnusableEmbeddingError(f"its embedding is damaged ({error})") from error


def _png_tensors(value: Any) -> Any:
    """Put tensors in the place of what A1111 made of them."""
    if isinstance(value, list):
        return [_png_tensors(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _PNG_TENSOR in value:
        return torch.tensor(value[_PNG_TENSOR])
    return {key: _png_tensors(item) for key, item in value.items()}
