"""The editor's routes do what their OpenAPI document says, whatever is sent to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("schemathesis", reason="it is in the test group")

import schemathesis
from editor_client import Client, EditorFiles
from editor_server import PACK_NAME, make_editor, serving
from hypothesis import HealthCheck, given, settings
from sd2_clip import host
from sd2_clip.editor.openapi import OPERATIONS
from sd2_clip.editor.pack import Pack
from sd2_clip.nodes.panel_routes import ROUTES

if TYPE_CHECKING:
    from sd2_clip.host.standalone import StandaloneHost

ROOT = Path(__file__).parents[2]
NEGATIVE = schemathesis.GenerationMode.NEGATIVE

CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.response_schema_conformance,
]


class Text:
    """Takes one of each kind of widget, and refuses some texts."""

    RETURN_TYPES = ()
    FUNCTION = "take"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"text": ("STRING", {}), "number": ("INT", {"min": 0, "max": 9})},
            "optional": {"kind": (["a", "b"], {}), "weight": ("FLOAT", {}), "on": ("BOOLEAN", {})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, text: str) -> bool | str:
        return text != "refused" or "this text is refused"

    def take(self, text: str, number: int, **more: Any) -> dict[str, Any]:
        return {"ui": {"text": [text]}}


def test_every_route_is_described(client: Client) -> None:
    client.editor = make_editor(
        {}, client.editor.host, client.editor.user, client.editor.frontend, routes=ROUTES
    )

    async def test(client: Client) -> None:
        document = await client.get("/api/openapi.json")
        described = {
            f"{method.upper()} {path}"
            for path, methods in document["paths"].items()
            for method in methods
        }
        named = {
            name.replace("{pack}", PACK_NAME) if "workflow_templates" in name else name
            for name in OPERATIONS
        }
        assert described == named

    client.run(test)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The description of a running server, over our own handlers and a few files."""
    from sd2_clip.host.standalone import MODEL_KINDS, StandaloneHost

    root = tmp_path_factory.mktemp("editor")
    files = EditorFiles(root)
    files.write("frontend/index.html", "<title>the frontend</title>")
    files.write("input/a.txt", "text")
    files.write("output/b.txt", "text")
    files.write("user/workflows/first.json", "{}")
    for kind in MODEL_KINDS:
        files.write(f"models/{kind}/nothing.safetensors", "nothing")
    standalone: StandaloneHost = StandaloneHost(
        [root / "models"], output=root / "output", input=root / "input"
    )
    before = host.current()
    host.use(standalone)
    editor = make_editor(
        {"Text": Text},
        standalone,
        root / "user",
        root / "frontend",
        routes=ROUTES,
        pack=Pack(PACK_NAME, ROOT),
    )
    with serving(editor) as address:
        yield schemathesis.openapi.from_url(f"{address}/api/openapi.json")
    host.use(before)


def operations() -> list[str]:
    return sorted(set(OPERATIONS) - {"GET /ws"})  # aiohttp answers, unless it is a WebSocket's


@pytest.mark.slow
@pytest.mark.parametrize("name", operations())
def test_route_answers_as_described(name: str, api: Any) -> None:
    method, _, path = name.partition(" ")
    operation = api[path.replace("{pack}", PACK_NAME)][method]

    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=NEGATIVE))
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    def probe(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    probe()
