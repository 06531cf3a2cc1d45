"""Serves the panels of the nodes in the editor's page, whatever the server.

A handler takes a dict (the query of a GET, the body of a POST) and returns a dict of JSON values;
an error that a user can cure is ``{"error": message}``. Handlers are thread-safe, and read only
files that the loader nodes may read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import weight_files
from ..sd2.errors import SD2ClipError
from ..sd2.files.checkpoint import open_checkpoint
from ..sd2.files.file_kinds import EMBEDDING_SUFFIXES, is_conditioning_file
from .clip_files import ClipNotFoundError, inspect_file, offer_files, resolve_clip

if TYPE_CHECKING:
    from ..sd2.tokens.tokenize_text import PromptSchedule
    from ..sd2.tokens.tokenized_text import TokenizedText

LONGEST_TEXT = 100_000
"""Characters that the panel shows tokens of; encoding has no such limit."""

MOST_PROMPTS = 12
"""Prompts of one text that the panel shows; prompt editing can make thousands."""

MOST_COUNTED = 500_000
"""Characters of the options of all choices {a|b} up to which their tokens are counted; beyond, the
option with the most characters is the longest."""


def tokenize(given: dict[str, Any]) -> dict[str, Any]:
    """POST /sd2_clip/tokenize ``{"text", …}``: the tokens of a text, without a model.

    The body may have any of ``EncodeOptions``. The text is that of an editor's widget: comments are
    left out, and of each choice ``{a|b}`` the longest option is counted (``has_choices``). The
    answer's ``parts`` are the prompts of the text: one, unless A1111's syntax makes several.
    """
    from ..clip.encode_options import ENCODE_OPTIONS, EncodeOptions
    from ..clip.encode_text import tokenize_with
    from ..sd2.sd2_tokenizer import SD2Tokenizer

    text = given.get("text")
    if not isinstance(text, str):
        return {"error": "'text' is missing."}
    if len(text) > LONGEST_TEXT:
        return {"error": f"The text has {len(text):,} characters; that is too long to show."}
    folders = [str(folder) for folder in host.current().model_folders("embeddings")]
    try:
        options = EncodeOptions(**{name: given[name] for name in ENCODE_OPTIONS if name in given})
        tokenizer = SD2Tokenizer(embedding_directory=folders)
        resolved, has_choices = _longest(
            text, lambda option: _token_count(tokenize_with(tokenizer, option, options))
        )
        schedule = tokenize_with(tokenizer, resolved, options)
    except SD2ClipError as error:
        return {"error": str(error)}
    return {
        "parts": [
            {"when": "" if schedule.is_plain else prompt.when(), **_as_json(prompt.tokens)}
            for prompt in schedule.prompts[:MOST_PROMPTS]
        ],
        "part_count": len(schedule.prompts),
        "warnings": list(schedule.warnings),
        "obstacle": schedule.error,
        "has_choices": has_choices,
    }


def _longest(text: str, count: Callable[[str], int]) -> tuple[str, bool]:
    """Resolve a widget's text to its longest form by *count*; tell whether it has choices."""
    from ..sd2.syntax.dynamic_prompt import longest_choice

    has_choices = False
    measured = count if text.count("|") * len(text) <= MOST_COUNTED else len

    def measure(option: str) -> int:
        nonlocal has_choices
        has_choices = True
        return measured(option)

    return longest_choice(text, measure), has_choices


def _token_count(schedule: PromptSchedule) -> int:
    return max(prompt.tokens.token_count for prompt in schedule.prompts)


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
    """GET /sd2_clip/inspect?clip_name=: what a file of the loader node holds, from its header.

    For a file that the node cannot load, ``alternatives`` names files that it can, of which there
    are ``more_alternatives``, and ``summary`` is the error without such names.
    """
    name = given.get("clip_name")
    if not isinstance(name, str) or not name:
        return {"error": "'clip_name' is missing."}
    try:
        path = resolve_clip(name)
        found = inspect_file(path)
    except ClipNotFoundError as error:
        return {"error": str(error), "summary": error.summary, **offer_files(name)}
    except (SD2ClipError, OSError) as error:
        return {"error": str(error), **offer_files(name)}
    if "error" in found:
        return found | {"error": found["error"].replace(str(path), name), **offer_files(name)}
    return found | {"clip_name": name}


def embeddings(given: dict[str, Any]) -> dict[str, Any]:
    """GET /sd2_clip/embeddings: the names that may follow ``embedding:``.

    ``vectors`` is null if counting them would require reading the whole file.
    """
    found: dict[str, dict[str, Any]] = {}
    for folder in host.current().model_folders("embeddings"):
        for file in weight_files(folder, EMBEDDING_SUFFIXES):
            path = folder / file
            name = Path(file).with_suffix("").as_posix()
            if name not in found and not is_conditioning_file(path):
                try:
                    vectors, width = _size(path, path.stat().st_mtime_ns)
                except OSError:
                    continue
                found[name] = {"name": name, "vectors": vectors, "width": width}
    return {"embeddings": sorted(found.values(), key=lambda one: one["name"].lower())}


@lru_cache(maxsize=4096)
def _size(path: Path, version: int) -> tuple[int | None, int | None]:
    """Return number and width of the vectors from a safetensors header; None if unknown."""
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
