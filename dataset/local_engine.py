"""Encodes fragments in this process: reading, encoding and writing overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from .encode_fragment import (
    Encoder,
    Environment,
    FragmentEncoder,
    Job,
    PreparedFragment,
    environment_of,
)
from .fragments import Fragment
from .manifest import Sidecar

AHEAD = 2
"""Fragments that are read and tokenized before they are needed."""

GPU_WRITERS = 4
"""Fragments that are written at a time beside a GPU, which encodes one faster than a core writes it
(1,000 captions: 0.15 s of an H100, about a second of a core)."""


class LocalEngine:
    """Encodes in this process."""

    def environment(self, encoder: Encoder) -> Environment:
        """Return what results depend on in this process."""
        return environment_of(encoder)

    def encode(
        self, job: Job, encoder: Encoder, fragments: Iterable[Fragment]
    ) -> Iterator[Sidecar]:
        """Encode fragments in order; yield the sidecar of each when it is written."""
        worker = FragmentEncoder(job, encoder)
        try:
            yield from encode_fragments(worker, fragments)
        finally:
            worker.close()


def encode_fragments(worker: FragmentEncoder, fragments: Iterable[Fragment]) -> Iterator[Sidecar]:
    """Encode *fragments* in order; yield the sidecar of each when it is written.

    One fragment is encoded while the next is read and tokenized and the last is written, so that
    memory holds the embeddings of two; of five with a GPU.
    """
    torch.set_num_threads(worker.job.threads)
    device = getattr(worker.encoder, "device", torch.device("cpu"))
    writers = 1 if device.type == "cpu" else GPU_WRITERS
    with (
        ThreadPoolExecutor(1, "sd2_clip reader") as reader,
        ThreadPoolExecutor(writers, "sd2_clip writer") as writer,
    ):
        prepared: deque[Future[PreparedFragment]] = deque()
        written: deque[Future[Sidecar]] = deque()
        iterator = iter(fragments)

        def read_ahead() -> None:
            while len(prepared) < AHEAD:
                fragment = next(iterator, None)
                if fragment is None:
                    return
                prepared.append(reader.submit(worker.prepare, fragment))

        read_ahead()
        try:
            while prepared:
                current = prepared.popleft().result()
                read_ahead()
                result = worker.encode(current)
                if len(written) == writers:
                    yield written.popleft().result()
                written.append(writer.submit(worker.write, *result))
                del result
            while written:
                yield written.popleft().result()
        finally:
            for future in prepared:
                future.cancel()
