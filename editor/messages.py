"""Reads and writes JSON bodies."""

from __future__ import annotations

import json
import math
from typing import Any

from aiohttp import web

from ..sd2.errors import SD2ClipError
from ..sd2.files.bounded_json import JsonError, parse_json


def dumps(value: Any) -> str:
    """Encode as JSON that browsers parse: nan and infinities as null, other objects as text."""
    try:
        return json.dumps(value, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(value), default=str)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return value


def reply(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status, dumps=dumps)


class BadRequestError(SD2ClipError):
    """A request is malformed; the message is for the author of the client."""


async def read_body(request: web.Request) -> bytes:
    """Read the body, decompressed if its header says so."""
    try:
        return await request.read()
    except (web.HTTPException, OSError):  # too large, or the client has left
        raise
    except Exception as error:  # aiohttp passes on what decompression raises
        raise BadRequestError(
            f"The body cannot be read: {error or type(error).__name__}"
        ) from error


async def read_json(request: web.Request) -> Any:
    """Parse the body as JSON; its content type is ignored, since several clients send none."""
    body = await read_body(request)
    try:
        return parse_json(body)
    except (JsonError, UnicodeDecodeError) as error:
        raise BadRequestError(f"The body is not JSON that can be read: {error}") from error


async def read_object(request: web.Request) -> dict[str, Any]:
    body = await read_json(request)
    if not isinstance(body, dict):
        raise BadRequestError(f"The body must be a JSON object, not {type(body).__name__}.")
    return body
