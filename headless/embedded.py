"""Reads the workflows inside other files: texts of a PNG, the metadata of a safetensors file."""

from __future__ import annotations

from pathlib import Path

from ..sd2.errors import UnreadableFileError
from ..sd2.files.png_text import PNG_SIGNATURE, read_png_texts
from ..sd2.files.safetensors_header import looks_like_safetensors, read_safetensors_header
from .workflow_errors import WorkflowError

KEYWORDS = ("prompt", "workflow")


def embedded_texts(path: Path) -> dict[str, str] | None:
    """The texts ``prompt`` (API format) and ``workflow`` (editor's) that a file carries.

    None if this is neither a PNG nor a safetensors file. Reads headers, not pixels or tensors.

    Raises:
        WorkflowError: for such a file that is damaged.
    """
    with path.open("rb") as file:
        start = file.read(16)
    try:
        if start.startswith(PNG_SIGNATURE):
            found = read_png_texts(path, KEYWORDS)
        elif looks_like_safetensors(start):
            _, found = read_safetensors_header(path)
        else:
            return None
    except UnreadableFileError as error:
        raise WorkflowError(str(error)) from error
    return {key: found[key] for key in KEYWORDS if key in found}
