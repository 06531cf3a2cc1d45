"""Builds, starts and stops the editor's server."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from ..headless.execution.executor import Executor
from ..host.interface import Host
from .editor_errors import EditorError
from .execution_routes import ExecutionRoutes
from .file_routes import FileRoutes
from .frontend import add_frontend, core_scripts
from .guard import make_guard
from .openapi import openapi_route
from .pack import Pack, PackRoutes
from .prompt_queue import PromptQueue
from .route_bridge import Route, bridge
from .settings import Settings
from .sockets import Hub
from .start_workflow import SCRIPT_URL, SETTINGS_TO_START_WITH, StartWorkflow, start_routes
from .system_routes import LogKeeper, SystemRoutes
from .user_routes import UserData

log = logging.getLogger("sd2_clip")

LARGEST_BODY = 64 * 2**20
"""Bytes. An uploaded conditioning of 200 chunks fits."""

STOP_TIMEOUT = 30.0
"""Seconds to wait for the running node when the server stops."""

MODEL_KINDS = ("text_encoders", "clip", "checkpoints", "diffusers", "embeddings", "loras")


@dataclass(frozen=True)
class Editor:
    """The configuration of one server."""

    node_classes: Mapping[str, type]
    routes: Sequence[Route]
    """The routes that the pack's scripts call."""
    pack: Pack
    host: Host
    """Its folders are listed, read and written."""
    user: Path
    """The folder for settings and saved workflows."""
    frontend: Path
    version: str
    start_workflow: StartWorkflow | None = None
    """Makes the workflow that a browser without one starts with; None: the frontend's own."""


def create_app(editor: Editor, *, bound_to: str = "127.0.0.1") -> web.Application:
    """Create the server as an aiohttp application, with the worker that runs prompts."""
    app = web.Application(middlewares=[make_guard(bound_to)], client_max_size=LARGEST_BODY)
    loop: asyncio.AbstractEventLoop | None = None

    def send(event: str, data: dict[str, Any], sid: str | None) -> None:
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(hub.send, event, data, sid)

    queue = PromptQueue(Executor(), send)

    def greeting(sid: str) -> list[tuple[str, dict[str, Any]]]:
        exec_info = {"queue_remaining": queue.remaining()}
        messages: list[tuple[str, dict[str, Any]]] = [
            ("status", {"status": {"exec_info": exec_info}, "sid": sid})
        ]
        for job in queue.running():  # for a page that was reloaded
            if job.client_id == sid and job.node is not None:
                data = {"node": job.node, "display_node": job.node, "prompt_id": job.prompt_id}
                messages.append(("executing", data))
        return messages

    hub = Hub(greeting)
    keeper = LogKeeper()
    system = SystemRoutes(editor.version, keeper)
    scripts = core_scripts(editor.frontend)
    settings = Settings(editor.user)
    start_workflow: list[web.RouteDef] = []
    if editor.start_workflow is not None:
        scripts.append(SCRIPT_URL)
        settings = Settings(editor.user, SETTINGS_TO_START_WITH)
        start_workflow = start_routes(editor.start_workflow)
    pack = PackRoutes(editor.pack, scripts, editor.node_classes)
    api = [
        *ExecutionRoutes(queue, editor.node_classes, editor.pack.module).routes(),
        *settings.routes(),
        *UserData(editor.user).routes(),
        *FileRoutes(editor.host, MODEL_KINDS).routes(),
        *system.routes(),
        *pack.routes(),
        *bridge(editor.routes),
        web.get("/ws", hub.handle),
    ]
    api.append(openapi_route(api, editor.version))
    # The frontend calls them under /api, most other clients without.
    app.add_routes([web.RouteDef(r.method, f"/api{r.path}", r.handler, r.kwargs) for r in api])
    app.add_routes([*api, *system.internal_routes(), *pack.static_routes(), *start_workflow])
    add_frontend(app, editor.frontend)

    async def start(app: web.Application) -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        log.addHandler(keeper)
        queue.start()

    async def stop(app: web.Application) -> None:
        log.removeHandler(keeper)
        stopped = await asyncio.to_thread(queue.stop, STOP_TIMEOUT)
        if not stopped:
            log.warning(
                "editor: the running node did not stop within %g s",
                STOP_TIMEOUT,
            )
        await hub.close()

    app.on_startup.append(start)
    app.on_shutdown.append(stop)
    return app


def serve(editor: Editor, *, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until interrupted. *on_ready* is called with the URL; port 0 chooses a free port.

    Raises ``EditorError`` if the port is in use, or the user's folder is a file.
    """
    _check_folder(editor.user)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(editor, host, port, on_ready))


def _check_folder(path: Path) -> None:
    try:
        is_other = path.exists() and not path.is_dir()
    except OSError as error:  # a name that is too long
        raise EditorError(f"{path} cannot be the user's folder: {error.strerror}") from error
    if is_other:
        raise EditorError(f"{path} is not a folder. Choose another for --user.")


async def _serve(editor: Editor, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    runner = web.AppRunner(create_app(editor, bound_to=host), access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except (OSError, OverflowError, UnicodeError) as error:  # also no port, and no host name
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise EditorError(
                    f"Port {port} is in use (by ComfyUI, or another editor?). "
                    "Stop that program, or choose another port: --port 8189"
                ) from error
            raise EditorError(f"Cannot serve on {host}:{port}: {error}") from error
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        on_ready(f"http://{shown}:{address[1]}/")
        await _until_stopped()
    finally:
        await runner.cleanup()


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # On Windows the loop supports no signal handlers; Ctrl-C cancels this wait instead.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
