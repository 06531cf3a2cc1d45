"""Encodes fragments in this process: reading, encoding and writing overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from ..sd2.errors import OptionError
from .encode_fragment import FragmentEncoder, PreparedFragment
from .fragments import Fragment
from .manifest import Sidecar

AHEAD = 2
"""Fragments that are read and tokenized before they are needed."""


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


def encode_fragments(worker: FragmentEncoder, fragments: Iterable[Fragment]) -> Iterator[Sidecar]:
    """Encode *fragments* in order; yield the sidecar of each when it is written.

    One fragment is encoded while the next is read and tokenized and the last is written, so that
    memory holds the embeddings of two.
    """
    with ThreadPoolExecutor(1, "sd2_clip reader") as reader, ThreadPoolExecutor(1, "writer") as io:
        prepared: deque[Future[PreparedFragment]] = deque()
        iterator = iter(fragments)

        def read_ahead() -> None:
            while len(prepared) < AHEAD:
                fragment = next(iterator, None)
                if fragment is None:
                    return
                prepared.append(reader.submit(worker.prepare, fragment))

        read_ahead()
        written: Future[Sidecar] | None = None
        try:
            while prepared:
                current = prepared.popleft().result()
                read_ahead()
                result = worker.encode(current)
                if written is not None:
                    yield written.result()
                written = io.submit(worker.write, *result)
                del result
            if written is not None:
                yield written.result()
        finally:
            for future in prepared:
                future.cancel()
