"""Reads a path of the command line."""

from __future__ import annotations

from pathlib import Path


def path_argument(text: str) -> Path:
    """Return the path, with ``~`` as the user's folder: not every shell expands it everywhere."""
    return Path(text).expanduser()
