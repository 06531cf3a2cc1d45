"""The public surface: nodes, commands, routes and library functions, as released.

Workflows, scripts and other programs rely on every line of ``tests/data/public_surface.json``. To
change it deliberately, with the package installed: ``python tests/test_public_surface.py``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import sd2_clip
from sd2_clip import cli, host
from sd2_clip.host.standalone import StandaloneHost
from sd2_clip.nodes.panel_routes import ROUTES

SURFACE = Path(__file__).parent / "data" / "public_surface.json"

STUB = "stub"
"""The name of every file and device of the host that the surface is read under."""

LIBRARY = ("detect", "load_clip", "load_checkpoint", "prompt_embeds")


class StubHost(StandaloneHost):
    """A host whose folders contain one file, and which has one device."""

    def __init__(self, folder: Path) -> None:
        super().__init__([folder], input=folder, output=folder)
        (folder / f"{STUB}.safetensors").touch()

    def devices(self) -> list[str]:
        return [STUB]


def current_surface() -> dict[str, Any]:
    """The public surface of the code as it is."""
    before = host.current()
    with tempfile.TemporaryDirectory() as folder:
        host.use(StubHost(Path(folder)))
        try:
            nodes = {name: _node(cls) for name, cls in sd2_clip.NODE_CLASS_MAPPINGS.items()}
        finally:
            host.use(before)
    surface = {
        "nodes": nodes,
        "commands": {name: _command(name) for name in cli.COMMANDS},
        "routes": [f"{method} {path}" for method, path, _ in ROUTES],
        "library": {
            "names": sorted(sd2_clip.__all__),
            "functions": {name: _function(getattr(sd2_clip, name)) for name in LIBRARY},
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(surface))  # tuples as lists
    return plain


def _node(cls: Any) -> dict[str, Any]:
    names = getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES)
    return {
        "title": cls.TITLE,
        "category": cls.CATEGORY,
        "is_output": getattr(cls, "OUTPUT_NODE", False),
        "inputs": [
            {"name": name, "group": group, **_input(declared)}
            for group, inputs in cls.INPUT_TYPES().items()
            for name, declared in inputs.items()
        ],
        "outputs": [
            {"name": name, "type": kind} for name, kind in zip(names, cls.RETURN_TYPES, strict=True)
        ],
    }


def _input(declared: Any) -> dict[str, Any]:
    if isinstance(declared, str):  # a hidden input
        return {"type": declared}
    kind, options = declared
    if isinstance(kind, list) and any(choice.startswith(STUB) for choice in kind):
        kind = "choices of the host"
    return {"type": kind, **{key: value for key, value in options.items() if key != "tooltip"}}


def _command(name: str) -> list[dict[str, Any]]:
    [commands] = [
        action
        for action in cli.build_parser(name)._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return [
        {
            "name": ", ".join(action.option_strings) or str(action.metavar),
            "takes_value": action.nargs != 0,
            "required": action.required,
            "choices": None if action.choices is None else list(action.choices),
            "default": str(action.default) if isinstance(action.default, Path) else action.default,
        }
        for action in commands.choices[name]._actions
        if action.dest != "help"
    ]


def _function(function: Any) -> list[str]:
    """Each parameter with its default."""
    return [
        name if parameter.default is parameter.empty else f"{name}={parameter.default!r}"
        for name, parameter in inspect.signature(function).parameters.items()
    ]


def _text(surface: dict[str, Any]) -> str:
    return json.dumps(surface, indent=1) + "\n"


def test_the_public_surface_is_as_released() -> None:
    released = SURFACE.read_text(encoding="utf-8")
    assert _text(current_surface()).splitlines() == released.splitlines(), (
        "The public surface has changed. If that is intended: python tests/test_public_surface.py"
    )


if __name__ == "__main__":
    SURFACE.write_text(_text(current_surface()), encoding="utf-8")
