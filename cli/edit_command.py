"""``sd2-clip edit``: serves the ComfyUI editor with our nodes, for the browser."""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from pathlib import Path
from typing import Any

from .. import NODE_CLASS_MAPPINGS, host
from ..host.standalone import StandaloneHost
from ..sd2.errors import how_to_install
from .demo_command import EDITOR_PACKAGES
from .path_argument import path_argument
from .run_command import add_host_arguments

PACK_NAME = "sd2-clip"
FIRST_WORKFLOW = Path(__file__).parent.parent / "example_workflows" / "First steps.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_host_arguments(parser)
    parser.add_argument(
        "--port", type=int, default=8188, help="TCP port; 0 chooses a free one (8188)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on; anyone who can reach it can run workflows (127.0.0.1)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--user",
        metavar="DIR",
        type=path_argument,
        default=Path("user") / "default",
        help="folder for settings and saved workflows (user/default, as in ComfyUI)",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        from ..editor.server import Editor, serve
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        print(
            "sd2-clip edit: the editor needs aiohttp and comfyui-frontend-package. "
            + how_to_install(EDITOR_PACKAGES, "editor"),
            file=sys.stderr,
        )
        return 1
    from ..editor.frontend import find_frontend
    from ..editor.pack import Pack
    from ..nodes.panel_routes import ROUTES
    from ..version import __version__

    models = arguments.models or [path for path in (Path("models"),) if path.is_dir()]
    host.use(StandaloneHost(models, output=arguments.output, device=arguments.device))

    def ready(address: str) -> None:
        print(f"The editor is at {address}  (Ctrl-C stops it)", flush=True)
        if not models:
            print("No models folder was given (--models DIR): the loader's list is empty.")
        if not arguments.no_browser:
            webbrowser.open(address)

    editor = Editor(
        node_classes=NODE_CLASS_MAPPINGS,
        routes=ROUTES,
        pack=Pack(PACK_NAME, Path(__file__).parent.parent),
        host=host.current(),
        user=arguments.user,
        frontend=find_frontend(),
        version=f"sd2-clip {__version__}",
        start_workflow=first_workflow,
    )
    serve(editor, host=arguments.host, port=arguments.port, on_ready=ready)
    return 0


def first_workflow() -> dict[str, Any]:
    """Return our first example, with a file of the models folders that holds SD2's encoder."""
    from ..nodes.clip_files import suggest_files

    workflow: dict[str, Any] = json.loads(FIRST_WORKFLOW.read_text(encoding="utf-8"))
    good = suggest_files(wrong="")
    for node in workflow["nodes"]:
        if node["type"] == "LoadSD2CLIP" and good and node["widgets_values"][0] not in good:
            node["widgets_values"][0] = good[0]
            node["properties"].pop("models", None)  # no other has to be downloaded
    return workflow
