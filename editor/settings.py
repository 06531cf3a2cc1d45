"""Stores the frontend's settings: one JSON object on disk, as ComfyUI keeps it.

Several editors may use one user folder: a change is merged into what is on disk then, under a lock
that holds for other processes too.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from ..sd2.files.atomic_write import naming, write_bytes
from ..sd2.files.bounded_json import (
    JsonError,
    check_json_depth,
    check_json_size,
    parse_json,
)
from ..sd2.files.regular_file import special_kind
from .editor_errors import StorageError
from .messages import read_json, read_object, reply

log = logging.getLogger("sd2_clip")

SETTINGS_FILE = "comfy.settings.json"

LOCK_SECONDS = 10.0
"""Time limit for another editor to finish its change."""


class Settings:
    """The frontend's settings: one JSON object on disk, over *defaults*."""

    def __init__(self, folder: Path, defaults: Mapping[str, Any] | None = None) -> None:
        self._defaults = dict(defaults or {})
        self._path = folder / SETTINGS_FILE
        self._changing = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/settings", self.all),
            web.post("/settings", self.change_several),
            web.get("/settings/{id}", self.one),
            web.post("/settings/{id}", self.change_one),
        ]

    def read(self) -> dict[str, Any]:
        """Read the settings. A damaged file is renamed, and never over one that was kept before."""
        try:
            return self._parse()
        except (JsonError, UnicodeDecodeError):
            with self._locked():  # it may be another editor's new file by now
                return self._read_locked()

    def _parse(self) -> dict[str, Any]:
        if (kind := special_kind(self._path)) is not None:
            raise StorageError(f"{self._path} is {kind}, not a file. Rename it.")
        try:
            check_json_size(self._path.stat().st_size)
            settings = parse_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        if not isinstance(settings, dict):
            raise JsonError("it is not a JSON object")
        return settings

    def _read_locked(self) -> dict[str, Any]:
        try:
            return self._parse()
        except (JsonError, UnicodeDecodeError) as error:
            aside = _set_aside(self._path)
            log.warning("editor: cannot read %s (%s); renamed to %s", self._path, error, aside)
            return {}

    async def all(self, request: web.Request) -> web.Response:
        return reply(self._defaults | await asyncio.to_thread(self.read))

    async def one(self, request: web.Request) -> web.Response:
        settings = self._defaults | await asyncio.to_thread(self.read)
        return reply(settings.get(request.match_info["id"]))

    async def change_one(self, request: web.Request) -> web.Response:
        return await self._change({request.match_info["id"]: await read_json(request)})

    async def change_several(self, request: web.Request) -> web.Response:
        return await self._change(await read_object(request))

    async def _change(self, changes: dict[str, Any]) -> web.Response:
        async with self._changing:
            # A change that has begun is finished even if the page disconnects.
            await asyncio.shield(asyncio.to_thread(self._merge, changes))
        return web.Response()

    def _merge(self, changes: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with naming(self._path), self._locked():
            settings = self._read_locked() | changes
            check_json_depth(settings)
            text = json.dumps(settings, indent=4)
            check_json_size(len(text))
            write_bytes(self._path, text.encode())

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return _locked(self._path.with_name(f".{self._path.name}.lock"))


def _set_aside(path: Path) -> Path:
    """Rename a damaged file to the first free name, so that no earlier copy is lost."""
    for number in itertools.count():
        aside = path.with_suffix(f".broken{number or ''}.json")
        try:
            os.link(path, aside)  # unlike a rename, fails if the name is taken
        except FileExistsError:
            continue
        except OSError:  # a file system without links
            if aside.exists():
                continue
            path.rename(aside)
            return aside
        path.unlink()
        return aside
    raise AssertionError("count() does not end")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that is released by the system, even if the process is killed."""
    with path.open("ab") as file:
        until = time.monotonic() + LOCK_SECONDS
        while not _try_lock(file.fileno()):
            if time.monotonic() > until:
                raise StorageError(
                    f"Another editor has held {path} for {LOCK_SECONDS:.0f} seconds; the settings "
                    "are not saved."
                )
            time.sleep(0.01)
        yield  # closing the file releases it


def _try_lock(file: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
