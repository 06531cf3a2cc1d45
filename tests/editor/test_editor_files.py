"""Settings, saved workflows, uploads, views and static files, and who may ask for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from aiohttp import FormData
from editor_client import Client, EditorFiles


def test_frontend_is_served_with_our_scripts(client: Client) -> None:
    async def test(client: Client) -> None:
        assert "the frontend" in await (await client.http.get("/")).text()
        assert await client.status("GET", "/assets/main.js") == 200
        scripts = await client.get("/api/extensions")
        assert scripts == ["/extensions/core/a.js", "/extensions/our-pack/ours.js"]
        for script in scripts:
            response = await client.http.get(script)
            assert response.status == 200
            assert response.content_type in ("text/javascript", "application/javascript")

    client.run(test)


def test_help_pages_and_templates_are_served(client: Client) -> None:
    async def test(client: Client) -> None:
        assert await client.status("GET", "/extensions/our-pack/docs/Show.md") == 200
        assert await client.status("GET", "/extensions/our-pack/docs/Show/en.md") == 404
        assert await client.get("/api/workflow_templates") == {"our-pack": ["first"]}
        assert await client.get("/api/workflow_templates/our-pack/first.json") == {}

    client.run(test)


def test_translations_are_merged_by_language(client: Client) -> None:
    async def test(client: Client) -> None:
        found = await client.get("/api/i18n")
        assert found == {"zh": {"hello": "你好", "nodeDefs": {"Show": {"display_name": "显示"}}}}

    client.run(test)


def test_settings_are_kept_on_disk(client: Client, files: EditorFiles) -> None:
    async def test(client: Client) -> None:
        assert await client.get("/api/settings") == {}
        await client.status("POST", "/api/settings/Comfy.Locale", json="ja")
        await client.status("POST", "/api/settings", json={"a": 1, "b": [2]})
        assert await client.get("/api/settings/Comfy.Locale") == "ja"
        assert await client.get("/api/settings") == {"Comfy.Locale": "ja", "a": 1, "b": [2]}

    client.run(test)
    kept = json.loads((files.root / "user/comfy.settings.json").read_text())
    assert kept["Comfy.Locale"] == "ja"


def test_unreadable_settings_are_put_aside_and_not_lost(
    client: Client, files: EditorFiles, caplog: pytest.LogCaptureFixture
) -> None:
    files.write("user/comfy.settings.json", "{broken")

    async def test(client: Client) -> None:
        assert await client.get("/api/settings") == {}

    client.run(test)
    assert (files.root / "user/comfy.settings.broken.json").read_text() == "{broken"


def test_workflow_is_saved_listed_renamed_read_and_deleted(
    client: Client, files: EditorFiles
) -> None:
    async def test(client: Client) -> None:
        saved = "/api/userdata/workflows%2Fsub%2Fmy%20first.json"
        response = await client.http.post(f"{saved}?full_info=true", data=b'{"nodes": []}')
        assert (await response.json())["path"] == "workflows/sub/my first.json"
        [info] = await client.get("/api/userdata?dir=workflows&recurse=true&full_info=true")
        assert (info["path"], info["size"]) == ("sub/my first.json", 13)
        assert await client.get("/api/userdata?dir=workflows&recurse=true&split=true") == [
            ["sub/my first.json", "sub", "my first.json"]
        ]
        assert await client.get("/api/userdata?dir=workflows") == []
        moved = await client.http.post(f"{saved}/move/workflows%2Fsecond.json")
        assert await moved.json() == "workflows/second.json"
        second = "/api/userdata/workflows%2Fsecond.json"
        assert await client.get(second) == {"nodes": []}
        assert await client.status("POST", f"{second}?overwrite=false", data=b"{}") == 409
        assert await client.status("DELETE", second) == 204
        assert await client.status("GET", second) == 404

    client.run(test)


def test_directory_entries_tell_folders_from_files(client: Client, files: EditorFiles) -> None:
    files.write("user/workflows/a.json", "{}")

    async def test(client: Client) -> None:
        [folder] = await client.get("/v2/userdata")
        assert (folder["path"], folder["type"]) == ("workflows", "directory")
        [file] = await client.get("/v2/userdata?path=workflows")
        assert (file["path"], file["type"]) == ("workflows/a.json", "file")

    client.run(test)


def test_interrupted_save_leaves_the_old_workflow(
    client: Client, files: EditorFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = files.write("user/workflows/a.json", "old")

    def fail(number: int) -> None:
        raise OSError("disk full")

    async def test(client: Client) -> None:
        monkeypatch.setattr("os.fsync", fail)
        assert await client.status("POST", "/userdata/workflows%2Fa.json", data=b"new") == 500

    client.run(test)
    assert path.read_text() == "old"
    assert [one.name for one in path.parent.iterdir()] == ["a.json"]


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


def test_link_out_of_the_folder_is_refused(client: Client, files: EditorFiles) -> None:
    (files.root / "user").mkdir()
    (files.root / "user/link").symlink_to(files.root)

    async def test(client: Client) -> None:
        assert await client.status("GET", "/api/userdata/link%2Fsecret.txt") == 400

    client.run(test)


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


def test_routes_of_the_pack_are_served_with_and_without_api(client: Client) -> None:
    async def test(client: Client) -> None:
        for prefix in ("", "/api"):
            assert await client.get(f"{prefix}/test/echo?a=b") == {"given": {"a": "b"}}
            posted = await client.http.post(f"{prefix}/test/echo", json={"a": [1]})
            assert await posted.json() == {"given": {"a": [1]}}
            assert await client.status("POST", f"{prefix}/test/echo", json=[1]) == 400

    client.run(test)


FOREIGN = {
    "host": {"Host": "evil.example"},
    "host that ends like ours": {"Host": "localhost.evil.example"},
    "host with a user": {"Host": "localhost@evil.example"},
    "origin": {"Origin": "http://evil.example"},
    "other port of this machine": {"Origin": "http://127.0.0.1:1"},
    "sandboxed page": {"Origin": "null"},
    "image of a foreign page": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_pages_are_refused(
    client: Client, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(client: Client) -> None:
        for method, path in (("GET", "/api/object_info"), ("POST", "/prompt"), ("GET", "/ws")):
            assert await client.status(method, path, headers=headers) == 403

    client.run(test)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8188"},
        {"Host": "[::1]:8188"},
        {"Host": "localhost:8188", "Origin": "http://localhost:8188"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
    ids=["localhost", "IPv6", "own origin", "link on another page"],
)
def test_own_pages_are_served(client: Client, headers: dict[str, str]) -> None:
    async def test(client: Client) -> None:
        assert await client.status("GET", "/api/users", headers=headers) == 200

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
