"""Stores saved workflows and other files of the user.

The files have ComfyUI's names and formats, so its folder ``user/default`` can be used as it is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web

from ..sd2.files.atomic_write import is_unfinished, write_bytes
from ..sd2.files.path_inside import path_inside
from ..sd2.files.regular_file import special_kind
from .editor_errors import StorageError
from .messages import dumps, read_body, reply


class UserData:
    """Files below the user's folder, workflows among them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/users", self.users),
            web.get("/user.css", self.user_css),
            web.get("/userdata", self.listing),
            web.get("/v2/userdata", self.entries),
            web.get("/userdata/{file}", self.read),
            web.post("/userdata/{file}", self.write),
            web.delete("/userdata/{file}", self.delete),
            web.post("/userdata/{file}/move/{target}", self.move),
        ]

    async def users(self, request: web.Request) -> web.Response:
        return reply({"storage": "server", "migrated": True})

    async def user_css(self, request: web.Request) -> web.StreamResponse:
        path = self._folder / "user.css"
        return web.FileResponse(path) if path.is_file() else web.Response(content_type="text/css")

    async def listing(self, request: web.Request) -> web.Response:
        """List files of a folder: names, ``[name, *parts]`` with split, objects with full_info."""
        directory = request.query.get("dir", "")
        if not directory:
            return reply({"error": "'dir' is missing."}, status=400)
        folder = path_inside(self._folder, directory, untrusted=True)
        pattern = "**/*" if _flag(request, "recurse") else "*"
        paths = [path for path in sorted(folder.glob(pattern)) if _is_users(path)]
        names = [path.relative_to(folder).as_posix() for path in paths]
        if _flag(request, "full_info"):
            return reply([_info(p, n) for p, n in zip(paths, names, strict=True)])
        if _flag(request, "split"):
            return reply([[name, *name.split("/")] for name in names])
        return reply(names)

    async def entries(self, request: web.Request) -> web.Response:
        """List the files and folders directly in ``path``."""
        name = request.query.get("path", "")
        folder = path_inside(self._folder, name, untrusted=True) if name else self._folder
        if not folder.is_dir():
            return reply({"error": f"There is no folder {name!r}."}, status=404)
        found = []
        for path in sorted(folder.iterdir()):
            if path.is_dir() or _is_users(path):
                relative = path.relative_to(self._folder).as_posix()
                entry = {"name": path.name, "path": relative}
                if path.is_dir():
                    found.append(entry | {"type": "directory"})
                else:
                    found.append(entry | {"type": "file"} | _info(path, relative))
        return reply(found)

    async def read(self, request: web.Request) -> web.StreamResponse:
        path = path_inside(self._folder, request.match_info["file"], untrusted=True)
        if not path.is_file():
            return web.Response(status=404)
        return sandboxed(web.FileResponse(path))

    async def write(self, request: web.Request) -> web.Response:
        path = path_inside(self._folder, request.match_info["file"], untrusted=True)
        if path.exists() and not _flag(request, "overwrite", default=True):
            return reply({"error": f"{path.name} exists."}, status=409)
        check_replaceable(path)
        body = await read_body(request)
        # A save that has begun is finished even if the page disconnects or the server stops.
        await asyncio.shield(asyncio.to_thread(write_bytes, path, body))
        return self._saved(request, path)

    async def delete(self, request: web.Request) -> web.Response:
        path = path_inside(self._folder, request.match_info["file"], untrusted=True)
        if not path.is_file():
            return web.Response(status=404)
        path.unlink()
        return web.Response(status=204)

    async def move(self, request: web.Request) -> web.Response:
        source = path_inside(self._folder, request.match_info["file"], untrusted=True)
        target = path_inside(self._folder, request.match_info["target"], untrusted=True)
        if not source.is_file():
            return web.Response(status=404)
        if target.exists() and not _flag(request, "overwrite", default=True):
            return reply({"error": f"{target.name} exists."}, status=409)
        check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        return self._saved(request, target)

    def _saved(self, request: web.Request, path: Path) -> web.Response:
        relative = path.relative_to(self._folder).as_posix()
        answer = _info(path, relative) if _flag(request, "full_info") else relative
        return web.json_response(answer, dumps=dumps)


def _flag(request: web.Request, name: str, *, default: bool = False) -> bool:
    value = request.query.get(name)
    return default if value is None else value.lower() not in ("false", "0", "")


def _is_users(path: Path) -> bool:
    """Whether this is a file, and not one of our own: being written, or a lock."""
    is_lock = path.name.startswith(".") and path.suffix == ".lock"
    return path.is_file() and not is_unfinished(path) and not is_lock


def _info(path: Path, name: str) -> dict[str, Any]:
    stat = path.stat()
    modified = int(stat.st_mtime * 1000)
    created = int(getattr(stat, "st_birthtime", stat.st_ctime) * 1000)
    return {"path": name, "size": stat.st_size, "modified": modified, "created": created}


def check_replaceable(path: Path) -> None:
    """Raise StorageError if *path* is a folder, a pipe or a device: they are not written over."""
    if (kind := special_kind(path)) is not None:
        raise StorageError(f"{path.name!r} is {kind}, not a file. Choose another name.")


def sandboxed(response: web.FileResponse) -> web.FileResponse:
    """Keep the browser from running a user's file as a page of this site."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "sandbox"
    return response
