"""Folders on file systems that fsspec opens, without their servers; test_object_store has one."""

import datetime
import json
import sys

import fsspec
import pytest
import tiny
from sd2_clip.dataset import EncodedCaptions
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.encode_distinct import encode_distinct
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.storage import Folder, StorageError, _identity

TEXTS = [f"picture {number % 30} of a cat" for number in range(40)]


@pytest.fixture
def memory():
    """A file system that is not a disk; its content is this process's."""
    file_system = fsspec.filesystem("memory")
    yield file_system
    file_system.rm("/", recursive=True)


@pytest.mark.parametrize(
    ("encode", "folder", "distinct"),
    [(encode_captions, "", 40), (encode_distinct, "embeddings", 30)],
)
def test_captions_come_from_a_store_and_embeddings_go_to_one(encode, folder, distinct, memory):
    pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
    encoder = tiny.caption_encoder()
    lines = [f"{json.dumps({'caption': text})}\n" for text in TEXTS]
    memory.pipe_file("/in/a.jsonl", "".join(lines).encode())
    out = "memory://data/out"
    for source, expected in (("memory://in", distinct), ("memory://in/a.jsonl", 0)):
        summary = encode(source, out, encoder, make_format("parquet"), fragment_size=8, verify=True)
        assert (summary.encoded, summary.missing) == (expected, 0)
    found = EncodedCaptions(f"{out}/{folder}".rstrip("/"))
    assert [one["caption"] for one in found] == TEXTS[:distinct]
    assert found[7]["caption_latents"].shape == (77, 32)


def test_a_dataset_of_hugging_face_is_a_folder():
    pytest.importorskip("huggingface_hub")
    folder = Folder("hf://datasets/someone/captions@main/data")
    assert not folder.is_local
    assert folder.path("a.parquet") == "datasets/someone/captions@main/data/a.parquet"


# What each file system says of a file, and what tells that the file has changed.
INFO = {
    "S3": ({"ETag": '"abc"', "LastModified": datetime.datetime(2026, 1, 1)}, "abc"),
    "Google": ({"etag": "CJ=", "md5Hash": "xyz", "mtime": datetime.datetime(2026, 1, 1)}, "CJ="),
    "Hugging Face": ({"blob_id": "5f0c", "lfs": None, "last_commit": None}, "5f0c"),
    "memory": ({"created": datetime.datetime(2026, 1, 1)}, ""),
}


@pytest.mark.parametrize("store", INFO)
def test_a_file_is_known_by_what_its_store_says_of_its_content(store):
    info, version = INFO[store]
    assert _identity({"name": "a", "size": 7, **info}) == (7, version)


@pytest.mark.parametrize("protocol", ["gs", "s3", "nosuch"])
def test_a_protocol_without_its_package_is_said(protocol, monkeypatch):
    known = sys.modules["fsspec.registry"]._registry  # of file systems that were used before
    monkeypatch.delitem(known, protocol, raising=False)
    for package in ("gcsfs", "s3fs"):
        monkeypatch.setitem(sys.modules, package, None)
    message = {"gs": "nstall gcsfs", "s3": "nstall s3fs", "nosuch": "nosuch"}[protocol]
    with pytest.raises(StorageError, match=f"{protocol}://bucket/x cannot be opened: .*{message}"):
        Folder(f"{protocol}://bucket/x").files()
