"""Encodes one fragment: reads it, encodes its distinct captions in batches, writes its file.

The result depends on the fragment and the settings alone: batches are a function of the fragment,
and an encoder computes none of them in a way that depends on those before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import torch

from ..sd2.tokens.chunks import pad_chunk
from .caption_encoder import SMALLEST_BATCH, CaptionEncoder
from .encoded_rows import EncodedRows
from .formats import Format
from .fragments import EmptyFragment, Fragment
from .inputs.captions import Caption, ReadOptions
from .manifest import Sidecar, WrittenFile, stem, write_sidecar
from .read_fragment import FragmentReader
from .storage import Folder
from .tokenizers import CaptionTokenizer

Encoder = CaptionEncoder | CaptionTokenizer
"""What reads captions, and computes their embeddings unless it is only a tokenizer."""


@dataclass(frozen=True)
class Job:
    """What workers need to know besides the fragment and the encoder; it can be pickled."""

    input: Folder
    out: Folder
    read: ReadOptions
    format: Format
    settings: dict[str, Any]
    threads: int
    """Of torch on the CPU: results depend on it."""


@dataclass(frozen=True)
class Environment:
    """What results depend on where they are computed."""

    settings: dict[str, Any]
    """Of the encoder."""
    threads: int
    """Of torch on the CPU."""


def environment_of(encoder: Encoder) -> Environment:
    """Describe this process; loads the checkpoint, if the encoder has one."""
    return Environment(encoder.settings(), torch.get_num_threads())


@dataclass(frozen=True)
class PreparedFragment:
    """A fragment's captions and tokens, before they are encoded."""

    id: str
    captions: Sequence[Caption]
    token_counts: Sequence[int]
    row_of: Sequence[int]
    chunks: Sequence[Sequence[int]]
    failed: int


@dataclass
class FragmentEncoder:
    """Encodes fragments of one job with one encoder, in three steps that may overlap."""

    job: Job
    encoder: Encoder
    _reader: FragmentReader = field(init=False)

    def __post_init__(self) -> None:
        self._reader = FragmentReader(self.job.input, self.job.read)

    def close(self) -> None:
        """Close the file that is being read."""
        self._reader.close()

    def encode_fragment(self, fragment: Fragment) -> Sidecar:
        """Encode one fragment: read, encode, write."""
        return self.write(*self.encode(self.prepare(fragment)))

    def prepare(self, fragment: Fragment) -> PreparedFragment:
        """Read and tokenize a fragment."""
        text = self._reader.read(fragment)
        captions = text.captions
        if not isinstance(fragment, EmptyFragment):
            captions = list(self.job.format.expand(captions))
        ids = self.encoder.tokenize([caption.text for caption in captions])
        rows: dict[tuple[int, ...], int] = {}
        row_of = [rows.setdefault(tuple(pad_chunk(one)), len(rows)) for one in ids]
        counts = [len(one) for one in ids]
        return PreparedFragment(fragment.id, captions, counts, row_of, list(rows), text.failed)

    def encode(self, prepared: PreparedFragment) -> tuple[PreparedFragment, EncodedRows]:
        """Encode the distinct captions of a fragment."""
        tensors = {}
        if isinstance(self.encoder, CaptionEncoder):
            tensors = encode_chunks(self.encoder, prepared.chunks)
        rows = EncodedRows(
            prepared.captions, prepared.token_counts, prepared.row_of, prepared.chunks, tensors
        )
        return prepared, rows

    def write(self, prepared: PreparedFragment, rows: EncodedRows) -> Sidecar:
        """Write the files of a fragment, and then the sidecar, which says that they are whole."""
        return write_rows(self.job, prepared.id, rows, prepared.failed)


def write_rows(job: Job, name: str, rows: EncodedRows, failed: int = 0) -> Sidecar:
    """Write encoded captions as the files of fragment *name*, and its sidecar."""
    written = []
    if rows.captions:
        for output in job.format.files(rows, stem(name), job.settings):
            digest = _Digest()

            def write(file: BinaryIO, output: Any = output, digest: _Digest = digest) -> None:
                output.write(digest.around(file))

            job.out.create(output.name, write)
            written.append(WrittenFile(output.name, digest.size, digest.sha.hexdigest()))
    sidecar = Sidecar(
        id=name,
        captions=len(rows.captions),
        distinct=len(rows.chunks),
        truncated=sum(rows.truncated),
        longest=max(rows.token_counts, default=0),
        failed=failed,
        files=tuple(written),
    )
    write_sidecar(job.out, sidecar)
    return sidecar


def encode_chunks(
    encoder: CaptionEncoder, chunks: Sequence[Sequence[int]]
) -> dict[str, torch.Tensor]:
    """Encode *chunks* in batches; the last is filled up, with the empty caption.

    On the CPU, so that it is not too small; on a GPU to the size of the others, because kernels
    are chosen by size.
    """
    batch_size = encoder.batch_size
    smallest = SMALLEST_BATCH if encoder.device.type == "cpu" else batch_size
    tensors = encoder.encode_chunks([])
    results = {
        name: torch.empty(len(chunks), *empty.shape[1:], dtype=empty.dtype)
        for name, empty in tensors.items()
    }
    for start in range(0, len(chunks), batch_size):
        some = list(chunks[start : start + batch_size])
        count = len(some)
        some += [pad_chunk([])] * max(smallest - count, 0)
        for name, found in encoder.encode_chunks(some).items():
            results[name][start : start + count] = found[:count]
    return results


class _Digest:
    """Computes size and SHA-256 of what is written through it to a file."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.size = 0
        self._file: BinaryIO | None = None
        self.closed = False

    def around(self, file: BinaryIO) -> BinaryIO:
        self._file = file
        return cast(BinaryIO, self)

    def write(self, data: Any) -> int:
        assert self._file is not None
        view = memoryview(data)
        self.sha.update(view)
        self.size += view.nbytes
        self._file.write(view)
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        assert self._file is not None
        self._file.flush()

    def close(self) -> None:
        """Leave the file open: whoever opened it closes it."""

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False
