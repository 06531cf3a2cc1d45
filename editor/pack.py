"""Serves the scripts, help pages, translations and example workflows of a node pack."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from ..sd2.files.path_inside import path_inside
from .messages import reply

log = logging.getLogger("sd2_clip")

LOCALE_FILES = {
    "main": None,
    "nodeDefs": "nodeDefs",
    "commands": "commands",
    "settings": "settings",
}
"""Files of ``locales/<language>``, and the key under which each is merged; None for the top."""

PAGE_NODES = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")
"""Nodes that the frontend has of its own."""

TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".md": "text/markdown",
    ".json": "application/json",
}


@dataclass(frozen=True)
class Pack:
    """A folder laid out as a pack of ComfyUI nodes."""

    name: str
    """The name of its folder in ``custom_nodes``, which is part of its URLs."""
    folder: Path
    web: str = "js"
    """The subfolder of its scripts and help pages."""

    @property
    def module(self) -> str:
        """The ``python_module`` of its nodes; for other names the frontend loads no help pages."""
        return f"custom_nodes.{self.name}"

    def scripts(self) -> list[str]:
        """List the URLs of the scripts that the page loads."""
        found = sorted((self.folder / self.web).rglob("*.js"))
        return [
            f"/extensions/{self.name}/{path.relative_to(self.folder / self.web).as_posix()}"
            for path in found
        ]

    def translations(self) -> dict[str, dict[str, Any]]:
        """Read, by language, ``main.json``, and the other files under their names."""
        languages: dict[str, dict[str, Any]] = {}
        for path in sorted((self.folder / "locales").glob("*/*.json")):
            if path.stem not in LOCALE_FILES:
                continue
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                log.warning("editor: %s is left out: %s", path, error)
                continue
            language = languages.setdefault(path.parent.name, {})
            key = LOCALE_FILES[path.stem]
            if key is None:
                language.update(content)
            else:
                language.setdefault(key, {}).update(content)
        return languages

    def templates(self, node_classes: Collection[str]) -> list[str]:
        """List the names of the example workflows that need no other *node_classes*."""
        paths = sorted((self.folder / "example_workflows").glob("*.json"))
        known = {*node_classes, *PAGE_NODES}
        return [path.stem for path in paths if (types := _node_types(path)) and types <= known]


def _node_types(workflow: Path) -> set[str]:
    """Return the types of a workflow's nodes, without those in subgraphs; none if it is broken."""
    try:
        nodes = json.loads(workflow.read_text(encoding="utf-8")).get("nodes", [])
    except ValueError as error:
        log.warning("editor: %s cannot be read: %s", workflow, error)
        return set()
    return {node["type"] for node in nodes}


class PackRoutes:
    def __init__(
        self, pack: Pack, core_scripts: list[str], node_classes: Collection[str] = ()
    ) -> None:
        self._pack = pack
        self._core_scripts = core_scripts
        self._node_classes = node_classes

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the API."""
        return [
            web.get("/extensions", self.extensions),
            web.get("/i18n", self.i18n),
            web.get("/workflow_templates", self.workflow_templates),
            web.get(f"/workflow_templates/{self._pack.name}/{{file:.+}}", self.template),
            web.get("/global_subgraphs", self.nothing),
            web.get("/node_replacements", self.nothing),
        ]

    def static_routes(self) -> list[web.RouteDef]:
        return [web.get(f"/extensions/{self._pack.name}/{{file:.+}}", self.web_file)]

    async def extensions(self, request: web.Request) -> web.Response:
        return reply([*self._core_scripts, *self._pack.scripts()])

    async def i18n(self, request: web.Request) -> web.Response:
        return reply(self._pack.translations())

    async def workflow_templates(self, request: web.Request) -> web.Response:
        templates = self._pack.templates(self._node_classes)
        return reply({self._pack.name: templates} if templates else {})

    async def nothing(self, request: web.Request) -> web.Response:
        return reply({})

    async def template(self, request: web.Request) -> web.StreamResponse:
        return _file(self._pack.folder / "example_workflows", request.match_info["file"])

    async def web_file(self, request: web.Request) -> web.StreamResponse:
        return _file(self._pack.folder / self._pack.web, request.match_info["file"])


def _file(folder: Path, name: str) -> web.StreamResponse:
    path = path_inside(folder, name, untrusted=True)
    if not path.is_file():
        return web.Response(status=404)
    response = web.FileResponse(path)
    # Set here, because the registry of Windows may map .js to plain text.
    if path.suffix in TYPES:
        response.content_type = TYPES[path.suffix]
    response.headers["Cache-Control"] = "no-cache"
    return response
