"""Parses JSON whose size, memory and depth are within the limits."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..errors import SD2ClipError
from .limits import MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_JSON_MEMORY

# Bytes of memory that one occurrence may cost: a container with one item, an item, a string.
_COSTS = {"{": 240, "[": 72, ",": 40, '"': 32}


class JsonError(SD2ClipError, ValueError):
    """A text is not JSON, or is larger or deeper than any JSON that we read."""


def parse_json(data: bytes | str) -> Any:
    """Parse JSON in UTF-8, 16 or 32, with a byte order mark or without.

    Raises:
        JsonError: starting with "not JSON" or "too"; the caller says which file it was.
        UnicodeDecodeError: if *data* is not text.
    """
    check_json_size(len(data))
    if isinstance(data, bytes):
        data = data.decode(json.detect_encoding(data), "surrogatepass")
    memory = 2 * sys.getsizeof(data) + sum(data.count(mark) * cost for mark, cost in _COSTS.items())
    if memory > MAX_JSON_MEMORY + 3 * len(data):
        raise JsonError(f"too many values for JSON of {len(data):,} characters")
    try:
        value = json.loads(data)
    except RecursionError:
        raise JsonError(f"too deep: nested more than {MAX_JSON_DEPTH} levels") from None
    except ValueError as error:  # also an integer with more digits than Python parses
        raise JsonError(f"not JSON: {error}") from None
    check_json_depth(value)
    return value


def check_json_size(size: int) -> None:
    """Raise JsonError if JSON of *size* bytes is too large to be read."""
    if size > MAX_JSON_BYTES:
        raise JsonError(f"too large: {size:,} bytes of JSON, at most {MAX_JSON_BYTES:,} are read")


def check_json_depth(value: Any) -> None:
    """Raise JsonError if containers are nested deeper than the limit."""
    level = [value] if isinstance(value, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise JsonError(f"too deep: nested more than {MAX_JSON_DEPTH} levels")
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, (dict, list))
        ]
