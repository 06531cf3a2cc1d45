"""What a page without a workflow of its own starts with, and which templates it offers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client, EditorFiles

WORKFLOW = {"nodes": [{"type": "Number"}], "links": []}


def test_the_page_is_given_a_script_a_workflow_and_a_finished_tutorial(client: Client) -> None:
    async def test(client: Client) -> None:
        assert "/editor/start_workflow.js" in await client.get("/api/extensions")
        assert await client.status("GET", "/editor/start_workflow.js") == 200
        assert await client.get("/start_workflow") == WORKFLOW
        assert await client.get("/api/settings") == {"Comfy.TutorialCompleted": True}
        await client.status("POST", "/api/settings/Comfy.TutorialCompleted", json=False)
        assert await client.get("/api/settings") == {"Comfy.TutorialCompleted": False}

    Client(replace(client.editor, start_workflow=lambda: WORKFLOW)).run(test)


def test_without_one_the_frontend_starts_as_it_does(client: Client) -> None:
    async def test(client: Client) -> None:
        assert "/editor/start_workflow.js" not in await client.get("/api/extensions")
        assert await client.status("GET", "/start_workflow") == 404

    client.run(test)


def test_templates_that_need_other_nodes_are_not_offered(
    client: Client, files: EditorFiles
) -> None:
    for name, types in {"ours": ["Number", "Note"], "cores": ["Number", "KSampler"]}.items():
        text = json.dumps({"nodes": [{"type": one} for one in types]})
        files.write(f"pack/example_workflows/{name}.json", text)
    files.write("pack/example_workflows/torn.json", "{")

    async def test(client: Client) -> None:
        listed = await client.get("/api/workflow_templates")
        assert listed == {"our-pack": ["first", "ours"]}

    client.run(test)
