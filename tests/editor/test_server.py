"""The server as a whole."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")

from pathlib import Path

from editor_client import Client
from editor_server import make_editor
from sd2_clip import host as hosts
from sd2_clip.editor.editor_errors import EditorError
from sd2_clip.editor.server import serve

TRAVERSALS = [
    "..%2F..%2Fsecret.txt",
    "..%5C..%5Csecret.txt",
    "workflows%2F..%2F..%2Fsecret.txt",
    "%2Fetc%2Fpasswd",
    "C:%5Csecret.txt",
    "a%00b",
    "file:stream",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_names_that_lead_out_of_the_folder_are_refused(client: Client, name: str) -> None:
    async def test(client: Client) -> None:
        assert await client.status("GET", f"/api/userdata/{name}") == 400
        assert await client.status("POST", f"/api/userdata/{name}", data=b"x") == 400
        assert await client.status("DELETE", f"/api/userdata/{name}") == 400
        assert await client.status("GET", f"/view?filename={name}") in (400, 404)
        assert await client.status("GET", f"/view?filename=made.txt&subfolder={name}") in (400, 404)
        assert await client.status("GET", f"/extensions/our-pack/{name}") in (400, 404)

    client.run(test)


def test_body_over_the_limit_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sd2_clip.editor.server.LARGEST_BODY", 1000)

    async def test(client: Client) -> None:
        body = b"x" * 2000
        assert await client.status("POST", "/api/userdata/a.json", data=body) == 413
        assert await client.status("POST", "/api/userdata/a.json", data=b"x") == 200

    client.run(test)


def test_small_questions_of_the_frontend_have_answers(client: Client) -> None:
    async def test(client: Client) -> None:
        assert (await client.get("/api/users"))["storage"] == "server"
        assert "system" in await client.get("/api/system_stats")
        assert "max_upload_size" in await client.get("/api/features")
        assert await client.get("/api/global_subgraphs") == {}
        assert "entries" in await client.get("/internal/logs/raw")
        assert await client.status("PATCH", "/internal/logs/subscribe", json={}) == 200
        assert await client.status("GET", "/user.css") == 200
        assert await client.status("GET", "/api/nothing/of/that/kind") == 404

    client.run(test)


@pytest.mark.parametrize(
    ("host", "port", "user", "words"),
    [
        ("127.0.0.1", 99_999, "user", "Cannot serve on 127.0.0.1:99999"),
        ("127.0.0.1", -1, "user", "Cannot serve on 127.0.0.1:-1"),
        ("a" * 300, 0, "user", "Cannot serve on aaaa"),
        ("127.0.0.1", 0, "file", "file is not a folder"),
        ("127.0.0.1", 0, "x" * 300, "cannot be the user's folder"),
    ],
)
def test_what_cannot_be_served_is_named(
    host: str, port: int, user: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    editor = make_editor({}, hosts.current(), tmp_path / user, tmp_path)
    with pytest.raises(EditorError, match=words):
        serve(editor, host=host, port=port, on_ready=lambda address: pytest.fail(address))
