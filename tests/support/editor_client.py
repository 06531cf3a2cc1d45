"""A client for tests of the editor's server: each test is one coroutine over a fresh server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import ClientWebSocketResponse
from aiohttp.test_utils import TestClient, TestServer
from sd2_clip.editor.server import Editor, create_app

LONGEST = 20
"""Seconds that anything may take."""


WAIT = {"9": {"class_type": "Wait", "inputs": {}}}


def show(value: int) -> dict[str, Any]:
    """A prompt that shows a number."""
    return {
        "1": {"class_type": "Number", "inputs": {"value": value}},
        "2": {"class_type": "Show", "inputs": {"value": ["1", 0]}},
    }


class EditorFiles:
    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path


class Client:
    """Talks to a server that runs for the time of one test."""

    def __init__(self, editor: Editor) -> None:
        self.editor = editor
        self.http: Any = None

    def run(self, test: Callable[[Client], Awaitable[None]]) -> None:
        async def main() -> None:
            async with TestClient(TestServer(create_app(self.editor))) as self.http:
                await asyncio.wait_for(test(self), LONGEST)

        asyncio.run(main())

    async def get(self, path: str, **options: Any) -> Any:
        """The JSON behind a path."""
        response = await self.http.get(path, **options)
        assert response.status == 200, await response.text()
        return await response.json()

    async def status(self, method: str, path: str, **options: Any) -> int:
        response = await self.http.request(method, path, **options)
        number: int = response.status
        return number

    async def queue(self, prompt: dict[str, Any], **more: Any) -> str:
        """Queue a prompt; its id."""
        response = await self.http.post("/prompt", json={"prompt": prompt, **more})
        answer = await response.json()
        assert response.status == 200, answer
        prompt_id: str = answer["prompt_id"]
        return prompt_id

    async def finished(self, prompt_id: str) -> dict[str, Any]:
        """The history of a prompt, once it has run."""
        while True:
            found = await self.get(f"/history/{prompt_id}")
            if prompt_id in found:
                item: dict[str, Any] = found[prompt_id]
                return item
            await asyncio.sleep(0.01)

    async def connect(self, sid: str) -> ClientWebSocketResponse:
        socket: ClientWebSocketResponse = await self.http.ws_connect(f"/ws?clientId={sid}")
        return socket


async def events_until(socket: ClientWebSocketResponse, last: str) -> list[tuple[str, Any]]:
    """All messages up to the first ``executing`` without a node, or the first of another type."""
    found = []
    while True:
        message = json.loads((await socket.receive(LONGEST)).data)
        found.append((message["type"], message["data"]))
        if message["type"] == last and (last != "executing" or message["data"]["node"] is None):
            return found
