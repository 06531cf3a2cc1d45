"""Settings on disk: shared by two editors, damaged, and in the way of something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client, EditorFiles
from sd2_clip.editor import settings as module
from sd2_clip.editor.editor_errors import StorageError
from sd2_clip.editor.settings import Settings

ROOT = Path(__file__).parents[2]

CHANGE_MANY = """
import sys
from pathlib import Path
from sd2_clip.editor.settings import Settings
settings = Settings(Path(sys.argv[1]))
for number in range(50):
    settings._merge({f"{sys.argv[2]}{number}": number})
"""


@pytest.mark.slow
def test_two_editors_lose_no_setting(tmp_path: Path) -> None:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    command = [sys.executable, "-c", CHANGE_MANY, str(tmp_path / "user")]
    writers = [subprocess.Popen([*command, name], cwd=tmp_path) for name in ("a", "b", "c")]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    kept = json.loads((tmp_path / "user/comfy.settings.json").read_text())
    assert kept == {f"{name}{number}": number for name in "abc" for number in range(50)}


@pytest.mark.parametrize(
    "damaged", [b"{broken", b"[1]", b"\xff\xfe\xfa", b"[" * 500 + b"]" * 500, b""]
)
def test_damaged_settings_never_replace_an_earlier_copy(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "comfy.settings.json"
    for copy in (b"{first", b"{second", damaged):
        path.write_bytes(copy)
        assert Settings(tmp_path).read() == {}
    names = ["comfy.settings.broken.json", "comfy.settings.broken1.json"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"{first", b"{second"]
    assert (tmp_path / "comfy.settings.broken2.json").read_bytes() == damaged
    assert not path.exists()


def test_damaged_settings_are_kept_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for copy in ("{first", "{second"):
        (tmp_path / "comfy.settings.json").write_text(copy)
        assert Settings(tmp_path).read() == {}
    assert (tmp_path / "comfy.settings.broken.json").read_text() == "{first"
    assert (tmp_path / "comfy.settings.broken1.json").read_text() == "{second"


def test_nan_and_deep_nesting_cannot_make_a_later_answer_fail(
    client: Client, files: EditorFiles
) -> None:
    async def test(client: Client) -> None:
        path = "/api/settings/a"
        assert await client.status("POST", path, data=b"[NaN, Infinity, 1e999]") == 200
        assert await client.status("POST", path, data=b"[" * 150 + b"]" * 150) == 200
        assert await client.status("POST", "/api/settings/b", data=b"NaN") == 200
        assert await client.status("POST", path, data=b"[" * 250 + b"]" * 250) == 400
        # Stored one level deeper, it could no longer be read.
        assert await client.status("POST", path, data=b"[" * 200 + b"]" * 200) == 400
        assert (await client.get("/api/settings"))["b"] is None

    client.run(test)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_stands_in_the_place_of_the_settings_is_named(
    client: Client, files: EditorFiles
) -> None:
    (files.root / "user").mkdir()
    os.mkfifo(files.root / "user/comfy.settings.json")

    async def test(client: Client) -> None:
        for method in ("GET", "POST"):
            response = await client.http.request(method, "/api/settings", json={"a": 1})
            assert response.status == 409
            assert "is a named pipe" in (await response.json())["error"]

    client.run(test)


def test_lock_that_is_held_for_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    settings = Settings(tmp_path)
    with settings._locked(), pytest.raises(StorageError, match="Another editor"):
        settings._merge({"a": 1})
    settings._merge({"a": 1})
    assert settings.read() == {"a": 1}


def test_lock_is_not_listed_among_the_users_files(client: Client, files: EditorFiles) -> None:
    async def test(client: Client) -> None:
        await client.status("POST", "/api/settings/a", json=1)
        names = [entry["name"] for entry in await client.get("/v2/userdata")]
        assert names == ["comfy.settings.json"]

    client.run(test)
