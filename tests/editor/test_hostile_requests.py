"""Malformed headers, bodies and forms get an answer with one sentence."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import zlib
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client, EditorFiles, show
from hostile_documents import ESCAPES, VALUES

FORM = {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.txt"'


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param({"Content-Type": "multipart/form-data"}, b"", id="no boundary"),
        pytest.param(
            {"Content-Type": "multipart/form-data; boundary="}, b"--", id="empty boundary"
        ),
        pytest.param(FORM, b"", id="no parts"),
        pytest.param(FORM, b"--x", id="cut after the boundary"),
        pytest.param(FORM, PART, id="cut in the headers"),
        pytest.param(FORM, PART + b"\r\n\r\ndata", id="cut in the data"),
        pytest.param(FORM, b"--y\r\n\r\n--y--\r\n", id="another boundary"),
        pytest.param(
            FORM,
            PART + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n!\r\n--x--\r\n",
            id="no base64",
        ),
        pytest.param(
            FORM, PART + b"\r\nContent-Encoding: gzip\r\n\r\nx\r\n--x--\r\n", id="part is no gzip"
        ),
        pytest.param(
            FORM, PART + b"\r\nContent-Encoding: odd\r\n\r\nx\r\n--x--\r\n", id="odd encoding"
        ),
        pytest.param(
            FORM,
            b'--x\r\nContent-Disposition: form-data; name="type"\r\nContent-Type: text/plain; '
            b"charset=none\r\n\r\nx\r\n--x--\r\n",
            id="odd charset",
        ),
        pytest.param(FORM, PART + b"\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", id="long header"),
        pytest.param(FORM, b"--x\r\nX: y\r\n" * 10_000, id="many parts"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp's files
def test_malformed_forms_are_named(headers: dict[str, str], body: bytes, client: Client) -> None:
    async def test(client: Client) -> None:
        response = await client.http.post("/upload/image", data=body, headers=headers)
        assert response.status in (200, 400, 413), await response.text()
        if response.status == 400:
            assert (await response.json())["error"]

    client.run(test)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "odd"])
@pytest.mark.parametrize("path", ["/prompt", "/settings/a", "/userdata/a.txt", "/queue"])
def test_bodies_that_are_not_encoded_as_they_say(encoding: str, path: str, client: Client) -> None:
    async def test(client: Client) -> None:
        headers = {"Content-Encoding": encoding}
        response = await client.http.post(path, data=b"no", headers=headers, compress=False)
        assert response.status in (200, 400, 415), await response.text()

    client.run(test)


@pytest.mark.slow
def test_compressed_body_cannot_fill_the_memory(client: Client) -> None:
    async def test(client: Client) -> None:
        body = zlib.compress(b" " * 200_000_000)
        headers = {"Content-Encoding": "deflate"}
        response = await client.http.post("/prompt", data=body, headers=headers)
        assert response.status in (400, 413)

    client.run(test)


@pytest.mark.parametrize(
    "origin",
    ["http://[", "http://[::1", "null", "x", "http://a:b", "http://" + "a" * 5_000],
)
def test_malformed_origins_are_refused(origin: str, client: Client) -> None:
    async def test(client: Client) -> None:
        response = await client.http.get("/features", headers={"Origin": origin})
        assert response.status in (400, 403)
        if response.status == 403:
            assert len((await response.json())["error"]) <= 1_000

    client.run(test)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(
    "name",
    [
        "prompt",
        "client_id",
        "prompt_id",
        "number",
        "front",
        "extra_data",
        "partial_execution_targets",
    ],
)
def test_any_value_anywhere_in_a_request_for_a_run(name: str, value: Any, client: Client) -> None:
    async def test(client: Client) -> None:
        body = json.dumps({"prompt": show(5), name: value})
        socket = await client.connect("page")
        response = await client.http.post("/prompt", data=body.encode())
        assert response.status in (200, 400), await response.text()
        answer = await response.json()
        if response.status == 200:
            while (await client.get("/prompt"))["exec_info"]["queue_remaining"]:
                await asyncio.sleep(0.005)
            for path in ("/queue", "/history", "/jobs", f"/jobs/{answer['prompt_id'][:99]}"):
                assert await client.status("GET", path) in (200, 404)
        await socket.close()

    client.run(test)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_any_widget_value_is_answered(value: Any, client: Client) -> None:
    async def test(client: Client) -> None:
        prompt = show(5)
        prompt["1"]["inputs"]["value"] = value
        prompt["2"]["_meta"] = {"title": ESCAPES}
        body = json.dumps({"prompt": prompt})
        response = await client.http.post("/prompt", data=body.encode())
        assert response.status in (200, 400), await response.text()
        assert await response.json()

    client.run(test)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_and_broken_disks_are_a_sentence(
    call: str,
    number: int,
    client: Client,
    files: EditorFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = files.write("user/a.txt", "old")
    files.write("user/comfy.settings.json", '{"a": 1}')

    def fail(*given: object, **named: object) -> None:
        raise OSError(number, os.strerror(number))

    async def test(client: Client) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            for path in ("/userdata/a.txt", "/userdata/new.txt", "/settings/a"):
                response = await client.http.post(path, data=b'"new"')
                assert response.status in (403, 500, 507)
                assert os.strerror(number) in (await response.json())["error"]
        assert await client.get("/settings") == {"a": 1}

    client.run(test)
    assert old.read_text() == "old"
    assert sorted(path.name for path in old.parent.iterdir()) == [
        ".comfy.settings.json.lock",
        "a.txt",
        "comfy.settings.json",
    ]
