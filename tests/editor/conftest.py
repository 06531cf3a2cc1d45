"""The editor's server over a handful of tiny nodes, spoken to over HTTP and WebSocket."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="the editor needs aiohttp")

from editor_client import Client, EditorFiles
from editor_server import make_editor
from sd2_clip.editor.pack import Pack
from sd2_clip.host.interface import progress_sink


class Number:
    """A source with one number."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "give"
    CATEGORY = "Test"
    TITLE = "A number"
    SEARCH_ALIASES = ("integer",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"default": 1, "min": 0})}}

    def give(self, value: int) -> tuple[int]:
        return (value,)


class Show:
    """Shows a number; fails or exits on certain ones."""

    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True
    CATEGORY = "Test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": ("INT", {"forceInput": True})}}

    def show(self, value: int) -> dict[str, Any]:
        if value == 13:
            raise ValueError("thirteen is no good")
        if value == 66:
            raise SystemExit("a node must not do this")
        progress = progress_sink.get()
        assert progress is not None
        progress(1, 2)
        return {"ui": {"text": [f"it is {value}"], "odd": [float("nan")]}}


class Wait:
    """Waits at progress reports until the test lets it go on."""

    RETURN_TYPES = ()
    FUNCTION = "wait"
    OUTPUT_NODE = True
    NOT_IDEMPOTENT = True
    begun = threading.Event()
    go_on = threading.Event()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def wait(self) -> dict[str, Any]:
        progress = progress_sink.get()
        assert progress is not None
        self.begun.set()
        while not self.go_on.wait(0.01):
            progress(1, 2)
        return {"ui": {"text": ["waited"]}}


@pytest.fixture
def wait() -> Any:
    Wait.begun.clear()
    Wait.go_on.clear()
    yield Wait
    Wait.go_on.set()


class Folders:
    """The part of a host that the server asks for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def model_folders(self, kind: str) -> list[Path]:
        return [self._folder / "models" / kind]

    def input_directory(self) -> Path:
        return self._folder / "input"

    def output_directory(self) -> Path:
        return self._folder / "output"


@pytest.fixture
def files(tmp_path: Path) -> EditorFiles:
    files = EditorFiles(tmp_path)
    files.write("frontend/index.html", "<title>the frontend</title>")
    files.write("frontend/assets/main.js", "export {};")
    files.write("frontend/extensions/core/a.js", "export {};")
    files.write("pack/js/ours.js", "export {};")
    files.write("pack/js/docs/Show.md", "# Show")
    files.write("pack/locales/zh/nodeDefs.json", '{"Show": {"display_name": "显示"}}')
    files.write("pack/locales/zh/main.json", '{"hello": "你好"}')
    files.write("pack/example_workflows/first.json", '{"nodes": [{"type": "Number"}]}')
    files.write("models/embeddings/fox.safetensors", "")
    files.write("output/sub/made.txt", "hello")
    files.write("output/page.html", "<script>alert(1)</script>")
    files.write("secret.txt", "secret")
    return files


@pytest.fixture
def client(files: EditorFiles) -> Any:
    root = files.root
    editor = make_editor(
        {"Number": Number, "Show": Show, "Wait": Wait},
        Folders(root),  # type: ignore[arg-type]
        root / "user",
        root / "frontend",
        routes=[
            ("POST", "/test/echo", lambda given: {"given": given}),
            ("GET", "/test/echo", lambda given: {"given": given}),
        ],
        pack=Pack("our-pack", root / "pack"),
    )
    return Client(editor)
