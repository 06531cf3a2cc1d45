"""Reports on machine and program, and serves the log that the frontend can show."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from importlib import metadata
from typing import Any

from aiohttp import web

from .messages import reply
from .sockets import FEATURES

LONGEST_LOG = 500


class LogKeeper(logging.Handler):
    """Keeps the last log records for the frontend's log panel."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: deque[dict[str, str]] = deque(maxlen=LONGEST_LOG)
        self.setFormatter(logging.Formatter("%(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        self.entries.append({"t": moment, "m": self.format(record) + "\n"})


class SystemRoutes:
    def __init__(self, version: str, log: LogKeeper) -> None:
        self._version = version
        self._log = log

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/system_stats", self.system_stats),
            web.get("/features", self.features),
        ]

    def internal_routes(self) -> list[web.RouteDef]:
        """Return the routes that are not under ``/api``."""
        return [
            web.get("/internal/logs/raw", self.logs),
            web.get("/internal/logs", self.log_text),
            web.patch("/internal/logs/subscribe", self.subscribe),
        ]

    async def system_stats(self, request: web.Request) -> web.Response:
        device: dict[str, Any] = {"name": "cpu", "type": "cpu", "index": None}
        memory = ("vram_total", "vram_free", "torch_vram_total", "torch_vram_free")
        return reply(
            {
                "system": {
                    "os": sys.platform,
                    "ram_total": 0,
                    "ram_free": 0,
                    "comfyui_version": self._version,
                    "python_version": sys.version,
                    "pytorch_version": _version("torch"),
                    "embedded_python": False,
                    "argv": ["sd2-clip", "edit"],
                },
                "devices": [device | dict.fromkeys(memory, 0)],
            }
        )

    async def features(self, request: web.Request) -> web.Response:
        return reply(FEATURES)

    async def logs(self, request: web.Request) -> web.Response:
        return reply({"entries": list(self._log.entries), "size": {"cols": 120, "rows": 40}})

    async def log_text(self, request: web.Request) -> web.Response:
        return reply("".join(f"{entry['t']} - {entry['m']}" for entry in self._log.entries))

    async def subscribe(self, request: web.Request) -> web.Response:
        return web.Response()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
