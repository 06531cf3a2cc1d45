"""Serves handlers that take a dict and return a dict, so that they need no web framework."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from .messages import read_object, reply

Route = tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]]]
"""Method, path and handler. A GET passes it the query, a POST the body, a JSON object."""


def bridge(routes: Sequence[Route]) -> list[web.RouteDef]:
    return [web.route(method, path, _serve(handler)) for method, path, handler in routes]


def _serve(
    handler: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def serve(request: web.Request) -> web.StreamResponse:
        given = await read_object(request) if request.method == "POST" else dict(request.query)
        # Handlers read files and tokenize: not in the event loop's thread.
        return reply(await asyncio.to_thread(handler, given))

    return serve
