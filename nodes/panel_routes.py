"""What our scripts in the editor's page ask the server, for any server to serve.

A handler takes a dict (the query of a GET, the body of a POST) and returns a dict that is ready
for JSON. What a user can cure comes back as ``{"error": message}``. Handlers may be called from
several threads at once, and read only what the loader nodes may read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import CLIP_KINDS, list_models, resolve_model, weight_files
from ..sd2.errors import SD2ClipError
from ..sd2.files.checkpoint import fingerprint, open_checkpoint
from ..sd2.files.file_kinds import EMBEDDING_SUFFIXES

if TYPE_CHECKING:
    from ..sd2.tokens.tokenized_text import TokenizedText

LONGEST_TEXT = 100_000
"""Characters that are tokenized for a display; encoding itself has no such limit."""

MOST_PARTS = 12
"""Parts of a text that are shown; prompt editing can make thousands."""

MOST_ALTERNATIVES = 3
SEARCH_SECONDS = 1.0
"""What may be spent on looking for a file that could be chosen instead of a wrong one."""


def tokenize(given: dict[str, Any]) -> dict[str, Any]:
    """POST /sd2_clip/tokenize ``{"text", "syntax"?, "steps"?, "chunk_split"?}``.

    The tokens, without any model loaded: a list of ``parts``, which is one except where A1111's
    prompt editing makes more.
    """
    from ..sd2.sd2_tokenizer import SD2Tokenizer
    from ..sd2.tokens.tokenize_text import read

    text = given.get("text")
    if not isinstance(text, str):
        return {"error": "'text' is missing."}
    if len(text) > LONGEST_TEXT:
        return {"error": f"The text has {len(text):,} characters; that is too long to show."}
    steps = given.get("steps", 0)
    if not isinstance(steps, int):
        return {"error": f"'steps' is no whole number: {steps!r}."}
    folders = [str(folder) for folder in host.current().model_folders("embeddings")]
    try:
        found = read(
            SD2Tokenizer(embedding_directory=folders).clip_h,
            text,
            syntax=str(given.get("syntax", "comfy")),
            steps=steps,
            chunk_split=str(given.get("chunk_split", "tokens")),
        )
    except SD2ClipError as error:
        return {"error": str(error)}
    return {
        "parts": [
            {"when": "" if found.is_plain else part.when(), **_as_json(part.tokens)}
            for part in found.parts[:MOST_PARTS]
        ],
        "part_count": len(found.parts),
        "warnings": list(found.warnings),
        "obstacle": found.obstacle,
    }


def _as_json(tokens: TokenizedText) -> dict[str, Any]:
    return {
        "rows": [row for row in tokens.rows() if row["word"]],
        "token_count": tokens.token_count,
        "chunk_count": len(tokens.chunks),
        "chunk_length": len(tokens.chunks[0]),
        "cut_words": tokens.cut_words(),
        "embeddings": [{"name": one.name, "vectors": one.rows} for one in tokens.embeddings],
        "ignored": [{"name": one.name, "reason": one.reason} for one in tokens.ignored],
        "warnings": list(tokens.warnings),
    }


def inspect(given: dict[str, Any]) -> dict[str, Any]:
    """GET /sd2_clip/inspect?clip_name=: what a file of the loader node holds, by its header.

    For a file that the node cannot load there is also ``alternatives``: names that it could.
    """
    name = given.get("clip_name")
    if not isinstance(name, str) or not name:
        return {"error": "'clip_name' is missing."}
    current = host.current()
    try:
        path = resolve_model(current, CLIP_KINDS, name)
        found = _look_at(path, str(fingerprint(path)))
    except (SD2ClipError, OSError) as error:
        return {"error": _without_path(str(error), name), "alternatives": _alternatives(name)}
    if "error" in found:
        return found | {
            "error": _without_path(found["error"], name, path),
            "alternatives": _alternatives(name),
        }
    return found | {"clip_name": name}


@lru_cache(maxsize=512)
def _look_at(path: Path, version: object) -> dict[str, Any]:
    """*version* is not looked at: it makes an edited file a new entry of the cache."""
    from ..sd2.detection.detect import detect

    try:
        checkpoint = open_checkpoint(path)
        found = detect(checkpoint).as_json()
    except SD2ClipError as error:
        return {"error": str(error), "kind": type(error).__name__}
    del found["path"]  # whoever may see the page need not know the server's folders
    return found | {"bytes": sum(file.stat().st_size for file in checkpoint.files)}


def _without_path(message: str, name: str, path: Path | None = None) -> str:
    return message if path is None else message.replace(str(path), name)


def _alternatives(wrong: str) -> list[str]:
    """Names of files that hold SD2's text encoder, as far as they are found quickly."""
    current = host.current()
    started = time.monotonic()
    good: list[str] = []
    for name in list_models(current, CLIP_KINDS):
        if len(good) == MOST_ALTERNATIVES or time.monotonic() - started > SEARCH_SECONDS:
            break
        try:
            path = resolve_model(current, CLIP_KINDS, name)
            if name != wrong and "error" not in _look_at(path, str(fingerprint(path))):
                good.append(name)
        except (SD2ClipError, OSError):
            continue
    return good


def embeddings(given: dict[str, Any]) -> dict[str, Any]:
    """GET /sd2_clip/embeddings: the names that ``embedding:`` may be followed by.

    ``vectors`` is null where counting them would mean reading the whole file.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in host.current().model_folders("embeddings"):
        for file in weight_files(folder, EMBEDDING_SUFFIXES):
            path = folder / file
            name = Path(file).with_suffix("").as_posix()
            if name not in found:
                try:
                    vectors, width = _size(path, path.stat().st_mtime_ns)
                except OSError:
                    continue
                found[name] = {"name": name, "vectors": vectors, "width": width}
    return {"embeddings": sorted(found.values(), key=lambda one: one["name"].lower())}


@lru_cache(maxsize=4096)
def _size(path: Path, version: int) -> tuple[int | None, int | None]:
    """Vectors and their width by the header of a safetensors file; None where it is not clear."""
    if path.suffix != ".safetensors":
        return None, None
    try:
        shapes = [info.shape for info in open_checkpoint(path).tensors.values()]
    except (SD2ClipError, OSError):
        return None, None
    flat = [shape for shape in shapes if len(shape) in (1, 2)]
    fitting = [shape for shape in flat if shape[-1] == 1024] or flat
    if len(fitting) != 1:
        return None, None
    shape = fitting[0]
    return (shape[0] if len(shape) == 2 else 1), shape[-1]


ROUTES: Sequence[tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]]]] = (
    ("POST", "/sd2_clip/tokenize", tokenize),
    ("GET", "/sd2_clip/inspect", inspect),
    ("GET", "/sd2_clip/embeddings", embeddings),
)
