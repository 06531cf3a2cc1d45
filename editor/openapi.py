"""Describes the routes of the editor's server as an OpenAPI document, which it serves itself.

The document lists what is served, so it cannot miss a route; tests hold that each route of this
project is described here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .messages import reply

Schema = Mapping[str, Any]

ANY: Schema = {}
OBJECT: Schema = {"type": "object"}
STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
FLAG: Schema = {"type": "string", "enum": ["true", "false", "1", "0", ""]}
LIST: Schema = {"type": "array"}
STRINGS: Schema = {"type": "array", "items": STRING}


def _object(required: Sequence[str] = (), **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


@dataclass(frozen=True)
class Operation:
    """What a client has to know of one route."""

    summary: str
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    """Of JSON; ``BYTES`` is a file, ``FORM`` an upload."""
    answer: Schema | None = None
    """Of JSON; None for a file or an empty answer."""
    statuses: tuple[int, ...] = (200,)
    """Besides 400, 403 and those of the file system, which every route may answer."""


BYTES: Schema = {"type": "string", "format": "binary"}
FORM: Schema = _object(
    ("image",), image=BYTES, overwrite=FLAG, type={"enum": ["input", "output"]}, subfolder=STRING
)
_INFO = {"full_info": FLAG}
_PROMPT: Schema = {
    "type": "object",
    "additionalProperties": _object(("class_type",), class_type=STRING, inputs=OBJECT),
}
_DELETE = _object(clear=BOOLEAN, delete=STRINGS)
_FILE = Operation("Read a file of the node pack", statuses=(200, 404))
_ERROR = _object(("error",), error=ANY)

OPERATIONS: Mapping[str, Operation] = {
    "GET /object_info": Operation("Describe all node classes", answer=OBJECT),
    "GET /object_info/{name}": Operation("Describe one node class", answer=OBJECT),
    "GET /prompt": Operation("Count the prompts that are not finished", answer=OBJECT),
    "POST /prompt": Operation(
        "Queue a prompt in API format",
        body=_object(
            ("prompt",),
            prompt=_PROMPT,
            client_id=STRING,
            prompt_id=STRING,
            number={"type": "number"},
            front=BOOLEAN,
            extra_data=OBJECT,
            partial_execution_targets=STRINGS,
        ),
        answer=_object(("prompt_id", "number", "node_errors"), prompt_id=STRING),
    ),
    "GET /queue": Operation(
        "List the running and the waiting prompts",
        answer=_object(("queue_running", "queue_pending"), queue_running=LIST, queue_pending=LIST),
    ),
    "POST /queue": Operation("Remove waiting prompts", body=_DELETE),
    "GET /history": Operation(
        "List the finished prompts", {"max_items": INTEGER, "offset": INTEGER}, answer=OBJECT
    ),
    "GET /history/{prompt_id}": Operation("Read one finished prompt", answer=OBJECT),
    "POST /history": Operation("Remove finished prompts from the history", body=_DELETE),
    "GET /jobs": Operation(
        "List prompts as jobs, a page at a time",
        {
            "status": STRING,
            "workflow_id": STRING,
            "sort_by": {"enum": ["created_at", "execution_duration"]},
            "sort_order": {"enum": ["asc", "desc"]},
            "offset": INTEGER,
            "limit": INTEGER,
        },
        answer=_object(("jobs", "pagination"), jobs=LIST, pagination=OBJECT),
    ),
    "GET /jobs/{prompt_id}": Operation("Read one job", answer=OBJECT, statuses=(200, 404)),
    "POST /jobs/cancel": Operation(
        "Cancel jobs", body=_object(job_ids=STRINGS), answer=_object(("cancelled",))
    ),
    "POST /jobs/{prompt_id}/cancel": Operation("Cancel one job", answer=_object(("cancelled",))),
    "POST /interrupt": Operation("Interrupt the running prompt", body=_object(prompt_id=STRING)),
    "POST /free": Operation(
        "Delete cached results", body=_object(unload_models=BOOLEAN, free_memory=BOOLEAN)
    ),
    "GET /settings": Operation("Read all settings of the user", answer=OBJECT),
    "POST /settings": Operation("Change several settings", body=OBJECT),
    "GET /settings/{id}": Operation("Read one setting, null if it is not set", answer=ANY),
    "POST /settings/{id}": Operation("Change one setting", body=ANY),
    "GET /users": Operation("Describe the one user", answer=OBJECT),
    "GET /user.css": Operation("Read the user's style sheet"),
    "GET /userdata": Operation(
        "List files of a folder of the user",
        {"dir": STRING, "recurse": FLAG, "split": FLAG, **_INFO},
        answer=LIST,
    ),
    "GET /v2/userdata": Operation(
        "List files and folders of the user", {"path": STRING}, answer=LIST, statuses=(200, 404)
    ),
    "GET /userdata/{file}": Operation("Read a file of the user", statuses=(200, 404)),
    "POST /userdata/{file}": Operation(
        "Write a file of the user",
        {"overwrite": FLAG, **_INFO},
        body=BYTES,
        answer=ANY,
        statuses=(200, 409),
    ),
    "DELETE /userdata/{file}": Operation("Delete a file of the user", statuses=(204, 404)),
    "POST /userdata/{file}/move/{target}": Operation(
        "Rename a file of the user",
        {"overwrite": FLAG, **_INFO},
        answer=ANY,
        statuses=(200, 404, 409),
    ),
    "GET /view": Operation(
        "Read a file of the input or output folder",
        {"filename": STRING, "subfolder": STRING, "type": {"enum": ["input", "output"]}},
        statuses=(200, 404),
    ),
    "POST /upload/image": Operation("Store a file", body=FORM, answer=_object(("name",))),
    "POST /upload/mask": Operation("Store a file", body=FORM, answer=_object(("name",))),
    "GET /embeddings": Operation("List the names of embeddings", answer=STRINGS),
    "GET /models": Operation("List the kinds of models", answer=STRINGS),
    "GET /models/{kind}": Operation("List models of a kind", answer=STRINGS, statuses=(200, 404)),
    "GET /experiment/models": Operation("List the folders of models", answer=LIST),
    "GET /experiment/models/{kind}": Operation("List models with their folders", answer=LIST),
    "GET /system_stats": Operation("Describe machine and program", answer=OBJECT),
    "GET /features": Operation("List the features of this server", answer=OBJECT),
    "GET /extensions": Operation("List the scripts that the page loads", answer=STRINGS),
    "GET /i18n": Operation("Read the translations of the node pack", answer=OBJECT),
    "GET /workflow_templates": Operation("List the example workflows", answer=OBJECT),
    "GET /workflow_templates/{pack}/{file}": _FILE,
    "GET /global_subgraphs": Operation("List shared subgraphs: there are none", answer=OBJECT),
    "GET /node_replacements": Operation("List replaced nodes: there are none", answer=OBJECT),
    "GET /ws": Operation(
        "Open a WebSocket, which gets the events of prompts", {"clientId": STRING}, statuses=(101,)
    ),
    "GET /openapi.json": Operation("Read this document", answer=OBJECT),
    "POST /sd2_clip/tokenize": Operation(
        "Show the tokens of a text", body=_object(text=STRING), answer=OBJECT
    ),
    "GET /sd2_clip/inspect": Operation(
        "Say what a model file holds", {"clip_name": STRING}, answer=OBJECT
    ),
    "GET /sd2_clip/embeddings": Operation("List names of embeddings for prompts", answer=OBJECT),
}

FILE_SYSTEM = {403: "not allowed", 409: "something else has this name", 507: "the disk is full"}


def describe(routes: Iterable[web.RouteDef], version: str) -> dict[str, Any]:
    """Describe *routes* as an OpenAPI 3.1 document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.path)
        key = f"{route.method} {path}"
        if path.startswith("/workflow_templates/"):
            key = "GET /workflow_templates/{pack}/{file}"
        other = Operation(
            "A route of the node pack", body=OBJECT if route.method == "POST" else None
        )
        operation = OPERATIONS.get(key, other)
        paths.setdefault(path, {})[route.method.lower()] = _operation(operation, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "SD2 CLIP's editor", "version": version},
        "servers": [{"url": "/api"}],
        "paths": paths,
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": STRING}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()
    ]
    described: dict[str, Any] = {"summary": operation.summary, "parameters": parameters}
    if operation.body is not None:
        kind = "application/json"
        if operation.body is BYTES:
            kind = "application/octet-stream"
        elif operation.body is FORM:
            kind = "multipart/form-data"
        described["requestBody"] = {"content": {kind: {"schema": operation.body}}}
    refused = {"application/json": {"schema": _ERROR}}
    described["responses"] = {
        "400": {"description": "the request is malformed", "content": refused},
        **{
            str(status): {"description": text, "content": refused}
            for status, text in FILE_SYSTEM.items()
        },
    }
    for status in operation.statuses:
        answer: dict[str, Any] = {"description": "done" if status < 400 else "there is none"}
        if status == 200 and operation.answer is not None:
            answer["content"] = {"application/json": {"schema": operation.answer}}
        described["responses"][str(status)] = answer
    return described


def openapi_route(routes: Sequence[web.RouteDef], version: str) -> web.RouteDef:
    """Return the route that serves the description of *routes* and of itself."""

    async def openapi(request: web.Request) -> web.Response:
        return reply(document)

    route = web.get("/openapi.json", openapi)
    document = describe([*routes, route], version)
    return route
