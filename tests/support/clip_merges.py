"""How ``sd2/tokens/clip_merges.txt.gz`` is made from OpenAI's ``bpe_simple_vocab_16e6.txt.gz``.

    python tests/support/clip_merges.py bpe_simple_vocab_16e6.txt.gz sd2/tokens/clip_merges.txt.gz

The source is in OpenAI's CLIP repository (``clip/``) and in every open_clip wheel. It holds
262,145 lines; CLIP's vocabulary uses the first 48,894 merges, and the rest of the 49,408 tokens
are 256 bytes, 256 bytes that end a word, and 2 special tokens.
"""

import gzip
import hashlib
import io
import sys
from pathlib import Path

SOURCE_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGE_COUNT = 49_408 - 256 - 256 - 2


def used_merges(source: bytes) -> bytes:
    """The lines of *source* (gzip) that CLIP uses: those after the header, as many as it takes."""
    lines = gzip.decompress(source).split(b"\n")
    return b"\n".join(lines[1 : 1 + MERGE_COUNT]) + b"\n"


def pack(merges: bytes) -> bytes:
    """Gzip with neither name nor time in the header, so that the same input gives the same file."""
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(merges)
    return packed.getvalue()


def main(source_path: str, target_path: str) -> None:
    source = Path(source_path).read_bytes()
    found = hashlib.sha256(source).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(f"{source_path}: sha256 {found}, expected {SOURCE_SHA256}")
    Path(target_path).write_bytes(pack(used_merges(source)))


if __name__ == "__main__":
    main(*sys.argv[1:])
