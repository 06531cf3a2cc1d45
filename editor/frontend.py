"""Serves the frontend's own files, from the package ``comfyui-frontend-package``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from aiohttp import web

from .editor_errors import EditorError

PACKAGE = "comfyui_frontend_package"


def find_frontend() -> Path:
    """Find the folder with the frontend's ``index.html``."""
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "static"
        if (folder / "index.html").is_file():
            return folder
    raise EditorError(
        "The ComfyUI frontend is not installed. Install it with: "
        "pip install comfyui-frontend-package"
    )


def core_scripts(static: Path) -> list[str]:
    """List the URLs of the frontend's own extensions, which the page loads like those of packs."""
    found = sorted((static / "extensions").rglob("*.js"))
    return [f"/{path.relative_to(static).as_posix()}" for path in found]


def add_frontend(app: web.Application, static: Path) -> None:
    """Serve the frontend at all remaining URLs; add this last."""

    async def index(request: web.Request) -> web.StreamResponse:
        response = web.FileResponse(static / "index.html")
        response.headers["Cache-Control"] = "no-store"
        return response

    app.router.add_get("/", index)
    app.router.add_static("/", static)
