"""Input and output on an emulator of Google Cloud Storage on loopback."""

import json
import os
import socket

import pytest
import tiny
from sd2_clip.dataset import EncodedCaptions
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.encode_distinct import encode_distinct
from sd2_clip.dataset.formats import make_format

# The emulator has no gRPC, by which gcsfs asks for the kind of a bucket; read at import.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
pytest.importorskip("gcsfs", reason="gcsfs and gcp-storage-emulator are needed")
pytest.importorskip("gcp_storage_emulator", reason="gcsfs and gcp-storage-emulator are needed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Google's packages

TEXTS = [f"picture {number % 30} of a cat" for number in range(40)]


@pytest.fixture
def bucket(monkeypatch):
    """An empty bucket of the emulator, which ``gs://`` reaches."""
    import fsspec.config
    import gcsfs
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True)
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    for protocol in ("gs", "gcs"):
        monkeypatch.setitem(fsspec.config.conf, protocol, {"token": "anon", "project": "p"})
    file_system = gcsfs.GCSFileSystem()
    file_system.mkdir("bucket")
    yield file_system
    gcsfs.GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.parametrize(
    ("encode", "folder", "distinct"),
    [(encode_captions, "", 40), (encode_distinct, "embeddings", 30)],
)
def test_captions_come_from_a_bucket_and_embeddings_go_to_one(encode, folder, distinct, bucket):
    encoder = tiny.caption_encoder()
    lines = [f"{json.dumps({'caption': text})}\n" for text in TEXTS]
    bucket.pipe_file("bucket/in/a.jsonl", "".join(lines).encode())
    out = "gs://bucket/data/out"
    found = []
    for source in ("gs://bucket/in", "gs://bucket/in/*.jsonl", "gs://bucket/in/a.jsonl"):
        summary = encode(source, out, encoder, make_format("parquet"), fragment_size=8, verify=True)
        found.append((summary.encoded, summary.missing))
    assert found == [(distinct, 0), (0, 0), (0, 0)]
    read = EncodedCaptions(f"{out}/{folder}".rstrip("/"))
    assert [one["caption"] for one in read] == TEXTS[:distinct]
