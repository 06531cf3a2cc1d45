"""Serves files that nodes read and write: /view, /upload, and lists of models by folder."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web
from multidict import MultiDictProxy

from ..host.interface import Host
from ..host.model_folders import weight_files
from ..sd2.files.atomic_write import write_bytes
from ..sd2.files.file_kinds import EMBEDDING_SUFFIXES, WEIGHT_SUFFIXES
from ..sd2.files.path_inside import path_inside
from ..sd2.files.write_new import write_new
from .messages import BadRequestError, reply
from .user_routes import check_replaceable, sandboxed

SHOWN = {
    ".txt": "text/plain",
    ".md": "text/plain",
    ".csv": "text/plain",
    ".log": "text/plain",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
"""The file types that a browser may show; all others are downloads."""


class FileRoutes:
    def __init__(self, host: Host, kinds: tuple[str, ...]) -> None:
        """*kinds* are the model folders that may be listed."""
        self._host = host
        self._kinds = kinds

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/view", self.view),
            web.post("/upload/image", self.upload),
            web.post("/upload/mask", self.upload),
            web.get("/embeddings", self.embeddings),
            web.get("/models", self.kinds),
            web.get("/models/{kind}", self.models),
            web.get("/experiment/models", self.model_folders),
            web.get("/experiment/models/{kind}", self.models_in_folders),
        ]

    def _folder(self, kind: str) -> Path:
        if kind == "output":
            return self._host.output_directory()
        if kind == "input":
            return self._host.input_directory()
        raise BadRequestError(f"type must be 'output' or 'input', found {kind!r}.")

    async def view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        folder = self._folder(query.get("type", "output"))
        name = f"{query.get('subfolder', '')}/{query.get('filename', '')}".lstrip("/")
        path = path_inside(folder, name, untrusted=True)
        if not query.get("filename") or not path.is_file():
            return web.Response(status=404)
        shown_as = SHOWN.get(path.suffix.lower())
        response = sandboxed(web.FileResponse(path))
        response.content_type = shown_as or "application/octet-stream"
        disposition = "inline" if shown_as else "attachment"
        name = "".join(
            letter if letter.isascii() and letter.isprintable() and letter != '"' else "_"
            for letter in path.name
        )
        response.headers["Content-Disposition"] = f'{disposition}; filename="{name}"'
        return response

    async def upload(self, request: web.Request) -> web.Response:
        """Store a file in the input folder; an existing one is kept unless overwrite is set."""
        form = await _read_form(request)
        file = form.get("image")
        if not isinstance(file, web.FileField):
            raise BadRequestError("The form has no file in the field 'image'.")
        with file.file:
            data = file.file.read()
        kind = str(form.get("type") or "input")
        subfolder = str(form.get("subfolder") or "")
        folder = self._folder(kind)
        name = file.filename.replace("\\", "/").rpartition("/")[2]
        path = path_inside(folder, f"{subfolder}/{name}".lstrip("/"), untrusted=True)
        overwrite = str(form.get("overwrite", "")).lower() in ("true", "1")
        path = await asyncio.shield(asyncio.to_thread(_store, path, data, overwrite=overwrite))
        place = path.parent.resolve().relative_to(folder.resolve()).as_posix()
        return reply({"name": path.name, "subfolder": "" if place == "." else place, "type": kind})

    async def embeddings(self, request: web.Request) -> web.Response:
        names = await asyncio.to_thread(self._names, "embeddings")
        return reply([str(Path(name).with_suffix("")) for name in names])

    def _names(self, kind: str) -> list[str]:
        suffixes = EMBEDDING_SUFFIXES if kind == "embeddings" else WEIGHT_SUFFIXES
        folders = self._host.model_folders(kind)
        return [name for folder in folders for name in weight_files(folder, suffixes)]

    async def kinds(self, request: web.Request) -> web.Response:
        return reply(list(self._kinds))

    async def models(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind not in self._kinds:
            return reply({"error": f"There are no models of the kind {kind!r}."}, status=404)
        return reply(await asyncio.to_thread(self._names, kind))

    async def model_folders(self, request: web.Request) -> web.Response:
        folders = ((kind, self._host.model_folders(kind)) for kind in self._kinds)
        return reply(
            [{"name": kind, "folders": [str(f) for f in found]} for kind, found in folders]
        )

    async def models_in_folders(self, request: web.Request) -> web.Response:
        kind = request.match_info["kind"]
        if kind not in self._kinds:
            return reply([])

        def find() -> list[dict[str, Any]]:
            return [
                {"name": name, "pathIndex": index}
                for index, folder in enumerate(self._host.model_folders(kind))
                for name in weight_files(folder)
            ]

        return reply(await asyncio.to_thread(find))


async def _read_form(request: web.Request) -> MultiDictProxy[Any]:
    try:
        return await request.post()
    except (web.HTTPException, OSError):  # too large, or the client has left
        raise
    except Exception as error:  # aiohttp passes on what its parsers and decoders raise
        raise BadRequestError(
            f"The form cannot be read: {error or type(error).__name__}"
        ) from error


def _store(path: Path, data: bytes, *, overwrite: bool) -> Path:
    """Write the file; unless *overwrite*, under the first ``name (1).ext`` that is free.

    A file with the same content is not written again.
    """
    check_replaceable(path)
    if overwrite:
        write_bytes(path, data)
        return path
    if (same := _find_same(path, data)) is not None:
        return same
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_new(path.parent, _names_like(path), lambda partial: partial.write_bytes(data))


def _names_like(path: Path) -> Iterator[Path]:
    for number in itertools.count():
        yield path.with_name(f"{path.stem} ({number}){path.suffix}") if number else path


def _find_same(path: Path, data: bytes) -> Path | None:
    for candidate in _names_like(path):
        if not candidate.exists():
            return None
        is_alike = candidate.is_file() and candidate.stat().st_size == len(data)
        if is_alike and candidate.read_bytes() == data:
            return candidate
    return None
