"""Sends events to WebSocket clients as JSON messages ``{"type", "data"}``."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from .messages import dumps

FEATURES = {"supports_preview_metadata": False, "max_upload_size": 64 * 2**20}
"""The features of this server, under ComfyUI's names."""

LONGEST_BACKLOG = 5_000
"""Messages that may wait for a slow client; then it is disconnected, and reconnects."""


class _Client:
    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.backlog: asyncio.Queue[str] = asyncio.Queue(LONGEST_BACKLOG)

    def put(self, message: str) -> bool:
        """Queue a message; False if too many are waiting."""
        try:
            self.backlog.put_nowait(message)
        except asyncio.QueueFull:
            return False
        return True

    async def write(self) -> None:
        while True:
            await self.socket.send_str(await self.backlog.get())


class Hub:
    """All connected clients. Call its methods in the event loop's thread only."""

    def __init__(self, greeting: Callable[[str], list[tuple[str, dict[str, Any]]]]) -> None:
        """*greeting* returns the first messages for a new client."""
        self._clients: dict[str, _Client] = {}
        self._greeting = greeting
        self._closing: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=30, max_msg_size=2**20)
        await socket.prepare(request)
        sid = request.query.get("clientId") or uuid.uuid4().hex
        client = _Client(socket)
        former = self._clients.get(sid)
        self._clients[sid] = client  # the newest page with an id gets the events
        if former is not None:
            self._cut(former)
        for event, data in self._greeting(sid):
            self.send(event, data, sid)
        writer = asyncio.create_task(client.write())
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._receive(sid, message.data)
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            if self._clients.get(sid) is client:
                del self._clients[sid]
        return socket

    def _receive(self, sid: str, text: str) -> None:
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(message, dict) and message.get("type") == "feature_flags":
            self.send("feature_flags", FEATURES, sid)

    def send(self, event: str, data: dict[str, Any], sid: str | None = None) -> None:
        """Send to one client, or to all if *sid* is None. A client that has left is ignored."""
        message = dumps({"type": event, "data": data})
        receivers = list(self._clients) if sid is None else [sid]
        for receiver in receivers:
            client = self._clients.get(receiver)
            if client is not None and not client.put(message):
                self._cut(client)

    def _cut(self, client: _Client) -> None:
        async def close() -> None:
            await client.socket.close()

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        for client in list(self._clients.values()):
            await client.socket.close(code=1001, message=b"server stops")
