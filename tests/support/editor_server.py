"""The editor's server in a thread of its own, for browsers and foreign clients to talk to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from sd2_clip.editor.pack import Pack
from sd2_clip.editor.server import Editor, create_app
from sd2_clip.host.interface import Host

ROOT = Path(__file__).parent.parent.parent
PACK_NAME = "sd2-clip"


def make_editor(
    node_classes: Mapping[str, type], host: Host, user: Path, frontend: Path, **others: Any
) -> Editor:
    return Editor(
        node_classes=node_classes,
        routes=others.get("routes", ()),
        pack=others.get("pack", Pack(PACK_NAME, ROOT)),
        host=host,
        user=user,
        frontend=frontend,
        version="test",
        start_workflow=others.get("start_workflow"),
    )


@contextmanager
def serving(editor: Editor) -> Iterator[str]:
    """Serve on a free port of the loopback address, which is yielded as ``http://…``."""
    loop = asyncio.new_event_loop()
    started = threading.Event()
    address = ""
    stop = asyncio.Event()

    async def main() -> None:
        nonlocal address
        runner = web.AppRunner(create_app(editor), access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            address = f"http://127.0.0.1:{runner.addresses[0][1]}"
            started.set()
            await stop.wait()
        finally:
            started.set()
            await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
