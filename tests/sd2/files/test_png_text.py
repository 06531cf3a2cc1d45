"""Texts of a PNG are found in each form of the specification; bombs are not decompressed."""

import struct
import zlib

import pytest
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files import png_text
from sd2_clip.sd2.files.png_text import PNG_SIGNATURE, read_png_texts


def chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def compressed(keyword: bytes, text: bytes) -> bytes:
    return chunk(b"zTXt", keyword + b"\0\0" + zlib.compress(text))


def read(tmp_path, *chunks, keywords=("a", "b")):
    path = tmp_path / "x.png"
    path.write_bytes(PNG_SIGNATURE + b"".join(chunks) + chunk(b"IEND", b""))
    return read_png_texts(path, keywords)


def test_wanted_texts_are_read_and_the_first_counts(tmp_path):
    chunks = (
        chunk(b"tEXt", b"a\0one"),
        compressed(b"b", b"zwei"),
        chunk(b"tEXt", b"a\0other"),
        chunk(b"tEXt", b"c\0not wanted"),
    )
    assert read(tmp_path, *chunks) == {"a": "one", "b": "zwei"}


def test_other_texts_are_not_decompressed(tmp_path, monkeypatch):
    monkeypatch.setattr(png_text, "MAX_PNG_TEXT_BYTES", 1_000)
    bomb = compressed(b"c", b" " * 100_000)
    damaged = chunk(b"zTXt", b"d\0\0no zlib")
    assert read(tmp_path, bomb, damaged, chunk(b"tEXt", b"a\0one")) == {"a": "one"}


def test_all_texts_share_one_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(png_text, "MAX_PNG_TEXT_BYTES", 1_000)
    half = b" " * 600
    assert read(tmp_path, compressed(b"a", half)) == {"a": half.decode()}
    with pytest.raises(UnreadableFileError, match="larger than 1,000 bytes"):
        read(tmp_path, compressed(b"a", half), compressed(b"b", half))
    with pytest.raises(UnreadableFileError, match="larger than 1,000 bytes"):
        read(tmp_path, chunk(b"tEXt", b"a\0" + b" " * 1_001))


@pytest.mark.parametrize(
    "data",
    [
        chunk(b"zTXt", b"a\0\0no zlib"),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(b"text")[:-3]),
        chunk(b"iTXt", b"a\0\0\0\0\0\xff"),
        struct.pack(">I", 2**32 - 1) + b"tEXta\0",
        struct.pack(">I", 2**32 - 1) + b"IDAT",
    ],
    ids=["not compressed", "cut", "not UTF-8", "longer than the budget", "longer than the file"],
)
def test_damaged_files_are_named(tmp_path, data):
    with pytest.raises(UnreadableFileError, match=r"x\.png: .*PNG"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "data",
    [
        chunk(b"tEXt", b"a\0" + "über".encode()),
        chunk(b"tEXt", b"a\0" + "über".encode("latin-1")),
        chunk(b"zTXt", b"a\0\0" + zlib.compress("über".encode())),
        chunk(b"iTXt", b"a\0\0\0de\0Schl\0" + "über".encode()),
        chunk(b"iTXt", b"a\0\1\0de\0Schl\0" + zlib.compress("über".encode())),
    ],
    ids=["text as UTF-8", "text", "compressed", "international", "international, compressed"],
)
def test_text_is_read_in_every_form(data, tmp_path):
    assert read(tmp_path, chunk(b"IDAT", b"\0" * 999), data) == {"a": "über"}
