"""Names of files that come over the network or from a workflow, at each entrance of the editor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client, EditorFiles
from editor_server import make_editor
from hostile_documents import NAMES
from sd2_clip import host
from sd2_clip.host.standalone import StandaloneHost
from sd2_clip.nodes.panel_routes import ROUTES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here"),
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A folder with the folders of an editor, and a file that no request may reach."""
    files = EditorFiles(tmp_path)
    files.write("frontend/index.html", "<title>the frontend</title>")
    files.write("canary.txt", "canary")
    files.write("models/embeddings/nothing.pt", "nothing")
    for folder in ("user", "input", "output"):
        files.write(f"{folder}/folder/file.txt", "text")
        os.mkfifo(tmp_path / folder / "pipe")
    before = host.current()
    folders = {name: tmp_path / name for name in ("input", "output")}
    host.use(StandaloneHost([tmp_path / "models"], **folders))
    yield tmp_path
    host.use(before)


def upload(name: str) -> dict[str, Any]:
    """A form, written by hand: clients refuse to send some of these names."""
    raw = name.encode("utf-8", "surrogatepass")
    disposition = b"Content-Disposition: form-data; name="
    parts = (
        disposition + b'"image"; filename="' + raw + b'"\r\n\r\ndata',
        disposition + b'"subfolder"\r\n\r\n' + raw,
    )
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    return {"data": body, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


async def answers(client: Client, name: str) -> list[Any]:
    """The answers of each entrance to a name."""
    path = quote(name, safe="", errors="surrogatepass")
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"/api/userdata/{path}", {}),
        ("POST", f"/api/userdata/{path}", {"data": b"data"}),
        ("POST", f"/api/userdata/folder%2Ffile.txt/move/{path}", {}),
        ("DELETE", f"/api/userdata/{path}", {}),
        ("GET", f"/api/userdata?dir={path}&recurse=1&full_info=1", {}),
        ("GET", f"/api/v2/userdata?path={path}", {}),
        ("GET", f"/api/view?filename={path}", {}),
        ("GET", f"/api/view?filename=x&subfolder={path}&type=input", {}),
        ("POST", "/api/upload/image", upload(name)),
        ("GET", f"/extensions/sd2-clip/{path}", {}),
        ("GET", f"/{path}", {}),
        ("GET", f"/api/settings/{path}", {}),
        ("GET", f"/api/sd2_clip/inspect?clip_name={path}", {}),
        ("POST", "/api/sd2_clip/tokenize", {"json": {"text": f"embedding:{name}"}}),
    ]
    found = []
    for method, url, options in requests:
        if "//" in url[1:] or url.endswith("/"):
            continue  # the client would change it
        response = await client.http.request(method, url, **options)
        found.append((method, url, response.status, await response.read()))
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp's files
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_every_name_gets_an_answer(name: str, root: Path) -> None:
    editor = make_editor({}, host.current(), root / "user", root / "frontend", routes=ROUTES)
    before = sorted(path.name for path in root.iterdir())

    async def test(client: Client) -> None:
        for method, url, status, body in await answers(client, name):
            assert status < 500, (method, url, body)
            assert b"canary" not in body, (method, url)

    Client(editor).run(test)
    assert (root / "canary.txt").read_text() == "canary"
    assert sorted(path.name for path in root.iterdir()) == before
