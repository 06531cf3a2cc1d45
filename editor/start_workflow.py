"""Serves the workflow that the page starts with, in place of the frontend's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from .messages import reply

SCRIPT = Path(__file__).parent / "start_workflow.js"
SCRIPT_URL = "/editor/start_workflow.js"

SETTINGS_TO_START_WITH = {"Comfy.TutorialCompleted": True}
"""Without it a page opens the list of templates over an empty workflow."""

StartWorkflow = Callable[[], Mapping[str, Any]]


def start_routes(make_workflow: StartWorkflow) -> list[web.RouteDef]:
    """Return the routes of the workflow and of the script, which the page loads as an extension."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.FileResponse(SCRIPT)
        response.content_type = "text/javascript"
        response.headers["Cache-Control"] = "no-cache"
        return response

    async def workflow(request: web.Request) -> web.Response:
        return reply(await asyncio.to_thread(make_workflow))

    return [web.get(SCRIPT_URL, script), web.get("/start_workflow", workflow)]
