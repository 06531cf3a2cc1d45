"""Views, uploads and lists of models, over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import FormData
from editor_client import Client, EditorFiles


def test_text_is_viewed_and_everything_active_is_a_download(client: Client) -> None:
    async def test(client: Client) -> None:
        text = await client.http.get("/view?filename=made.txt&subfolder=sub&type=output")
        assert (await text.text(), text.content_type) == ("hello", "text/plain")
        page = await client.http.get("/view?filename=page.html")
        assert page.content_type == "application/octet-stream"
        assert page.headers["Content-Disposition"].startswith("attachment")
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert await client.status("GET", "/view?filename=gone.txt") == 404
        assert await client.status("GET", "/view?filename=made.txt&type=models") == 400

    client.run(test)


def test_uploads_are_kept_apart_unless_overwritten(client: Client, files: EditorFiles) -> None:
    async def upload(client: Client, data: bytes, **fields: str) -> Any:
        form = FormData(quote_fields=False)
        form.add_field("image", data, filename="../../a.safetensors")
        for name, value in fields.items():
            form.add_field(name, value)
        response = await client.http.post("/upload/image", data=form)
        assert response.status == 200, await response.text()
        return (await response.json())["name"]

    async def test(client: Client) -> None:
        assert await upload(client, b"one") == "a.safetensors"
        assert await upload(client, b"one") == "a.safetensors"
        assert await upload(client, b"two") == "a (1).safetensors"
        assert await upload(client, b"three", overwrite="true") == "a.safetensors"
        assert await upload(client, b"x", subfolder="deep") == "a.safetensors"

    client.run(test)
    assert (files.root / "input/a.safetensors").read_bytes() == b"three"
    assert (files.root / "input/deep/a.safetensors").exists()


def test_models_are_listed_by_kind(client: Client) -> None:
    async def test(client: Client) -> None:
        assert await client.get("/api/embeddings") == ["fox"]
        assert await client.get("/models/embeddings") == ["fox.safetensors"]
        assert "checkpoints" in await client.get("/models")
        assert await client.status("GET", "/models/nonsense") == 404

    client.run(test)
