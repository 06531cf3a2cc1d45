"""Texts of a PNG are found in each form that the specification has, and bombs are not unfolded."""

import struct
import zlib

import pytest
from sd2_clip.sd2.errors import UnreadableFileError
from sd2_clip.sd2.files.png_text import read_png_texts


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


END = chunk(b"IEND", b"")


def read(tmp_path, *chunks):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 13) + b"".join(chunks))
    return read_png_texts(path)


@pytest.mark.parametrize(
    "data",
    [
        chunk(b"tEXt", b"key\0" + "über".encode()),
        chunk(b"tEXt", b"key\0" + "über".encode("latin-1")),
        chunk(b"zTXt", b"key\0\0" + zlib.compress("über".encode())),
        chunk(b"iTXt", b"key\0\0\0de\0Schl\0" + "über".encode()),
        chunk(b"iTXt", b"key\0\1\0de\0Schl\0" + zlib.compress("über".encode())),
    ],
    ids=["text as UTF-8", "text", "compressed", "international", "international, compressed"],
)
def test_text_is_read_in_every_form(data, tmp_path):
    assert read(tmp_path, data, END) == {"key": "über"}


def test_pixels_are_skipped_and_the_first_of_two_texts_counts(tmp_path):
    texts = [chunk(b"tEXt", b"a\0one"), chunk(b"IDAT", b"\0" * 999), chunk(b"tEXt", b"a\0two")]
    assert read(tmp_path, *texts, END) == {"a": "one"}


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([], "ends before"),
        ([chunk(b"tEXt", b"key\0text")[:10]], "ends before"),
        ([chunk(b"zTXt", b"key\0\0x"), END], "text chunk of this PNG is damaged"),
        ([chunk(b"zTXt", b"key\0\0" + zlib.compress(b"text" * 99)[:-8]), END], "truncated"),
        ([chunk(b"iTXt", b"key\0\0\0\0\0\xff"), END], "damaged"),
    ],
    ids=["nothing", "cut", "not compressed", "cut stream", "not UTF-8"],
)
def test_damage_is_named(chunks, words, tmp_path):
    with pytest.raises(UnreadableFileError, match=rf"a\.png.*{words}"):
        read(tmp_path, *chunks)


def test_compressed_text_cannot_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("sd2_clip.sd2.files.png_text.MAX_TEXT_BYTES", 1000)
    bomb = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b" " * 100_000))
    with pytest.raises(UnreadableFileError, match="larger than 1,000 bytes"):
        read(tmp_path, bomb, END)
