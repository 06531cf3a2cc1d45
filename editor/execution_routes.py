"""Queues prompts and reports on them: /prompt, /queue, /history, /jobs, /interrupt, /free."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ..headless.validation.validate import Validation, validate
from ..headless.workflow import read_prompt
from ..headless.workflow_errors import WorkflowError
from .messages import BadRequestError, read_json, read_object, reply
from .node_info import describe_node, describe_nodes
from .problem_json import node_errors_json, refusal_json
from .prompt_queue import Job, PromptQueue


class ExecutionRoutes:
    def __init__(self, queue: PromptQueue, classes: Mapping[str, type], module: str) -> None:
        self._queue = queue
        self._classes = classes
        self._module = module

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/object_info", self.object_info),
            web.get("/object_info/{name}", self.object_info_of),
            web.get("/prompt", self.status),
            web.post("/prompt", self.submit),
            web.get("/queue", self.queue),
            web.post("/queue", self.change_queue),
            web.get("/history", self.history),
            web.get("/history/{prompt_id}", self.history_of),
            web.post("/history", self.change_history),
            web.get("/jobs", self.jobs),
            web.get("/jobs/{prompt_id}", self.job),
            web.post("/jobs/cancel", self.cancel_jobs),
            web.post("/jobs/{prompt_id}/cancel", self.cancel_job),
            web.post("/interrupt", self.interrupt),
            web.post("/free", self.free),
        ]

    async def object_info(self, request: web.Request) -> web.Response:
        return reply(await asyncio.to_thread(describe_nodes, self._classes, self._module))

    async def object_info_of(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._classes:
            return reply({})
        info = await asyncio.to_thread(describe_node, name, self._classes[name], self._module)
        return reply({name: info})

    async def status(self, request: web.Request) -> web.Response:
        return reply({"exec_info": {"queue_remaining": self._queue.remaining()}})

    async def submit(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if "prompt" not in body:
            return _refused("no_prompt", "No prompt provided", "The body has no 'prompt'.")
        targets = body.get("partial_execution_targets")
        targets = _ids(targets) if isinstance(targets, list) else None

        def check() -> Validation:
            return validate(read_prompt(body["prompt"], self._classes), targets)

        try:
            validation = await asyncio.to_thread(check)  # VALIDATE_INPUTS may read files
        except WorkflowError as error:
            return _refused("invalid_prompt", str(error))
        if not validation.ok:
            return reply(refusal_json(validation), status=400)
        extra_data = body.get("extra_data")
        extra_data = dict(extra_data) if isinstance(extra_data, dict) else {}
        client_id = body.get("client_id", extra_data.get("client_id"))
        if client_id is not None:
            client_id = extra_data["client_id"] = str(client_id)
        job = Job(
            number=self._number(body),
            prompt=body["prompt"],
            validation=validation,
            extra_data=extra_data,
            client_id=client_id,
        )
        extra_data["create_time"] = job.created
        if body.get("prompt_id"):
            job.prompt_id = str(body["prompt_id"])
        self._queue.submit(job)
        return reply(
            {
                "prompt_id": job.prompt_id,
                "number": job.number,
                "node_errors": node_errors_json(validation),
            }
        )

    def _number(self, body: Mapping[str, Any]) -> float:
        if body.get("number") is None:
            return self._queue.next_number(front=bool(body.get("front")))
        try:
            number = float(body["number"])
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise BadRequestError(f"'number' must be a finite number, found {body['number']!r}")
        return number

    # The queue and the history

    async def queue(self, request: web.Request) -> web.Response:
        return reply(
            {
                "queue_running": [job.queue_item() for job in self._queue.running()],
                "queue_pending": [job.queue_item() for job in self._queue.pending()],
            }
        )

    async def change_queue(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if body.get("clear"):
            self._queue.remove()
        for prompt_id in _ids(body.get("delete")):
            self._queue.remove(prompt_id)
        return web.Response()

    async def history(self, request: web.Request) -> web.Response:
        jobs = self._queue.history()
        most = _integer(request, "max_items")
        offset = _integer(request, "offset")
        if most is not None:
            start = max(0, len(jobs) - most) if offset is None or offset < 0 else offset
            jobs = jobs[start : start + most]
        elif offset is not None:
            jobs = jobs[offset:]
        return reply({job.prompt_id: job.history_item() for job in jobs})

    async def history_of(self, request: web.Request) -> web.Response:
        wanted = request.match_info["prompt_id"]
        found = [job for job in self._queue.history() if job.prompt_id == wanted]
        return reply({job.prompt_id: job.history_item() for job in found})

    async def change_history(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if body.get("clear"):
            self._queue.forget_history()
        for prompt_id in _ids(body.get("delete")):
            self._queue.forget_history(prompt_id)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        body = await read_json(request) if request.can_read_body else {}
        wanted = body.get("prompt_id") if isinstance(body, dict) else None
        self._queue.interrupt(wanted)
        return web.Response()

    async def free(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if body.get("unload_models") or body.get("free_memory"):
            self._queue.forget_results()
        return web.Response()

    # Queue and history as a list of jobs (frontends since 1.39)

    def _all_jobs(self) -> list[Job]:
        return [*self._queue.pending(), *self._queue.running(), *self._queue.history()]

    async def jobs(self, request: web.Request) -> web.Response:
        wanted = [name for name in request.query.get("status", "").split(",") if name]
        jobs = [job for job in self._all_jobs() if not wanted or job.status in wanted]
        workflow_id = request.query.get("workflow_id")
        if workflow_id:
            jobs = [job for job in jobs if _workflow_id(job) == workflow_id]
        if request.query.get("sort_by") == "execution_duration":
            jobs.sort(key=lambda job: (job.ended or 0) - (job.started or 0))
        else:
            jobs.sort(key=lambda job: job.created)
        if request.query.get("sort_order", "desc") != "asc":
            jobs.reverse()
        total = len(jobs)
        offset = max(0, _integer(request, "offset") or 0)
        limit = _integer(request, "limit")
        page = jobs[offset:] if limit is None else jobs[offset : offset + max(0, limit)]
        return reply(
            {
                "jobs": [summary(job) for job in page],
                "pagination": {
                    "offset": offset,
                    "limit": total if limit is None else limit,
                    "total": total,
                    "has_more": offset + len(page) < total,
                },
            }
        )

    async def job(self, request: web.Request) -> web.Response:
        wanted = request.match_info["prompt_id"]
        for job in self._all_jobs():
            if job.prompt_id == wanted:
                details = {
                    "workflow": {"prompt": job.prompt, "extra_data": job.extra_data},
                    "outputs": job.outputs,
                    "execution_status": job.history_item()["status"],
                    "execution_meta": job.meta(),
                    "update_time": job.ended or job.started or job.created,
                }
                return reply(summary(job) | details)
        return reply({"error": f"There is no job {wanted!r}."}, status=404)

    async def cancel_jobs(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        return reply({"cancelled": self._queue.cancel(_ids(body.get("job_ids")))})

    async def cancel_job(self, request: web.Request) -> web.Response:
        found = self._queue.cancel([request.match_info["prompt_id"]])
        return reply({"cancelled": bool(found)})


def summary(job: Job) -> dict[str, Any]:
    """Describe a job for the frontend's list."""
    preview, count = preview_output(job.outputs)
    return {
        "id": job.prompt_id,
        "status": job.status,
        "priority": job.number,
        "create_time": job.created,
        "execution_start_time": job.started,
        "execution_end_time": job.ended,
        "preview_output": preview,
        "outputs_count": count,
        "previewable_outputs_count": 0 if preview is None else count,
        "execution_error": job.error,
        "workflow_id": _workflow_id(job),
    }


def preview_output(outputs: Mapping[str, Any]) -> tuple[dict[str, Any] | None, int]:
    """Return the last result that can be shown as text, and the number of all results."""
    preview = None
    count = 0
    for node_id, ui in outputs.items():
        for kind, items in ui.items():
            count += len(items)
            if kind == "text" and items:
                preview = {
                    "nodeId": node_id,
                    "mediaType": "text",
                    "content": str(items[0])[:1024],
                    "filename": "",
                    "subfolder": "",
                    "type": "temp",
                }
    return preview, count


def _workflow_id(job: Job) -> str | None:
    info = job.extra_data.get("extra_pnginfo")
    workflow = info.get("workflow") if isinstance(info, dict) else None
    found = workflow.get("id") if isinstance(workflow, dict) else None
    return None if found is None else str(found)


def _ids(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _integer(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None or text == "":
        return None
    try:
        return int(text)
    except ValueError as error:
        raise BadRequestError(f"{name} must be an integer, found {text!r}") from error


def _refused(kind: str, message: str, details: str = "") -> web.Response:
    error = {"type": kind, "message": message, "details": details, "extra_info": {}}
    return reply({"error": error, "node_errors": {}}, status=400)
