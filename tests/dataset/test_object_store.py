"""Input and output on an S3 server on loopback, and what happens when it fails."""

import json
import threading
import time
from collections import Counter

import pytest
import tiny
from sd2_clip.dataset import EncodedCaptions
from sd2_clip.dataset import storage as storage_module
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.inputs.captions import CaptionsError
from sd2_clip.dataset.storage import Folder, StorageError

s3fs = pytest.importorskip("s3fs", reason="s3fs and moto[server] are needed for an S3 server")
pytest.importorskip("moto.server", reason="s3fs and moto[server] are needed for an S3 server")
pytestmark = pytest.mark.filterwarnings("ignore")  # of botocore and aiohttp

TEXTS = [f"picture {number} of a cat" for number in range(40)]


class FaultyServer:
    """moto's S3 server, which fails as often as it is told to."""

    def __init__(self):
        from moto.backends import get_backend  # noqa: F401 fails early where moto is incomplete
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self.faults = {}
        """By HTTP method: how many requests fail, and how."""
        self.requests = Counter()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ, start_response):
        method = environ["REQUEST_METHOD"]
        self.requests[method] += 1
        count, kind = self.faults.get(method, (0, ""))
        # Our own files only: the test itself puts others.
        if count and "/data/" in environ["PATH_INFO"]:
            self.faults[method] = (count - 1, kind)
            if kind == "503":
                start_response("503 Slow Down", [("Content-Type", "application/xml")])
                return [b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"]
            if kind == "cut off":
                environ["wsgi.input"].read(100)
                raise ConnectionResetError
            time.sleep(1.5)  # longer than the client waits
        return self._app(environ, start_response)

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    server = FaultyServer()
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import fsspec.config

    timeouts = {"read_timeout": 1, "connect_timeout": 1, "retries": {"max_attempts": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": timeouts})
    monkeypatch.setattr(storage_module, "DELAY", 0.01)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield server
    s3fs.S3FileSystem().rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()
    server.close()


def encode(source, out, **options):
    encoder = tiny.caption_encoder()
    format = make_format("parquet")
    return encode_captions(source, out, encoder, format, fragment_size=8, **options)


def put(name, texts=TEXTS):
    data = "".join(f"{json.dumps({'caption': text})}\n" for text in texts)
    s3fs.S3FileSystem().pipe_file(f"bucket/{name}", data.encode())


def test_captions_come_from_a_bucket_and_embeddings_go_to_one(server):
    put("in/a.jsonl")
    assert encode("s3://bucket/in", "s3://bucket/data/out").encoded == 40
    found = EncodedCaptions("s3://bucket/data/out")
    assert [one["caption"] for one in found] == TEXTS
    assert found[17]["key"] == "a.jsonl:17"
    assert sorted(one["key"] for one in found.shuffled(1)) == sorted(found.keys)
    put("in/b.jsonl", ["one more"])
    for source in ("s3://bucket/in", "s3://bucket/in/*.jsonl"):
        summary = encode(source, "s3://bucket/data/out", verify=True)
        assert summary.encoded in (1, 0)
        assert summary.counts.captions == 41
    assert encode("s3://bucket/in/a.jsonl", "s3://bucket/data/file").encoded == 40


def test_a_bucket_without_the_captions_is_named(server):
    with pytest.raises(CaptionsError, match="s3://bucket/none does not exist"):
        encode("s3://bucket/none", "s3://bucket/data/out")


@pytest.mark.parametrize("kind", ["503", "cut off", "timeout"])
@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_faults_that_pass_are_survived(kind, method, server):
    put("in/data/a.jsonl")
    server.faults[method] = (3, kind)
    assert encode("s3://bucket/in/data/a.jsonl", "s3://bucket/data/out").encoded == 40
    assert server.faults[method][0] == 0
    assert [one["caption"] for one in EncodedCaptions("s3://bucket/data/out")] == TEXTS


def test_a_store_that_stays_broken_is_named_and_keeps_what_it_has(server, monkeypatch):
    put("in/a.jsonl")
    create = Folder.create
    calls = iter(range(1000))

    def breaks(folder, name, write):
        if next(calls) == 6:
            server.faults["PUT"] = (1000, "503")
        create(folder, name, write)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "create", breaks)
        with pytest.raises(StorageError, match=r"data/out/.* cannot be written after 4 attempts"):
            encode("s3://bucket/in", "s3://bucket/data/out")
    server.faults.clear()
    assert 0 < encode("s3://bucket/in", "s3://bucket/data/out").encoded < 40
    assert len(EncodedCaptions("s3://bucket/data/out")) == 40
