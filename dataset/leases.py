"""Shares fragments among processes: a fast one takes what a slow one has not begun.

A lease only saves work. Two processes that take the same fragment write the same bytes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..sd2.errors import OptionError
from .fragments import Fragment
from .manifest import is_done
from .storage import Folder, process_ended, process_name

LEASES = "_leases"
LEASE_SECONDS = 1800
"""After which a process that has not finished a fragment is given up."""


@dataclass(frozen=True)
class Part:
    """A worker's share of the fragments: the *number*-th of *of* blocks, counted from 1."""

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if self.of < 1:
            raise OptionError(f"Invalid part {self.number}/{self.of}: there is at least one part.")
        if not 1 <= self.number <= self.of:
            raise OptionError(
                f"Invalid part {self.number}/{self.of}: the first number must be between 1 and "
                f"{self.of}."
            )

    def bounds(self, total: int) -> tuple[int, int]:
        """Return where the block starts and ends."""
        return total * (self.number - 1) // self.of, total * self.number // self.of


def take_fragments(out: Folder, fragments: Sequence[Fragment], part: Part) -> Iterator[Fragment]:
    """Yield fragments to encode: those of *part*, then, from behind, what others have not begun."""
    start, end = part.bounds(len(fragments))
    others = [*range(end, len(fragments)), *range(start)]
    for index in [*range(start, end), *reversed(others)]:
        fragment = fragments[index]
        if not is_done(out, fragment.id) and _take(out, fragment.id):
            yield fragment


def release(out: Folder, name: str) -> None:
    """Remove the lease of a fragment that is done."""
    out.remove(f"{LEASES}/{name}.json")


def _take(out: Folder, name: str) -> bool:
    path = f"{LEASES}/{name}.json"
    try:
        lease = json.loads(out.read(path))
        held = time.time() - lease["time"] < LEASE_SECONDS and not process_ended(lease["process"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        held = False
    if held:
        return False
    out.write(path, json.dumps({"process": process_name(), "time": time.time()}).encode())
    return True
