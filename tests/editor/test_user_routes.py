"""Settings and saved workflows, over HTTP."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client, EditorFiles


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


def test_link_out_of_the_folder_is_refused(client: Client, files: EditorFiles) -> None:
    (files.root / "user").mkdir()
    (files.root / "user/link").symlink_to(files.root)

    async def test(client: Client) -> None:
        assert await client.status("GET", "/api/userdata/link%2Fsecret.txt") == 400

    client.run(test)
