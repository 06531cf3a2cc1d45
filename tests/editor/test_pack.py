"""Help pages, templates and translations of a pack."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client


def test_help_pages_and_templates_are_served(client: Client) -> None:
    async def test(client: Client) -> None:
        assert await client.status("GET", "/extensions/our-pack/docs/Show.md") == 200
        assert await client.status("GET", "/extensions/our-pack/docs/Show/en.md") == 404
        assert await client.get("/api/workflow_templates") == {"our-pack": ["first"]}
        first = await client.get("/api/workflow_templates/our-pack/first.json")
        assert first == {"nodes": [{"type": "Number"}]}

    client.run(test)


def test_translations_are_merged_by_language(client: Client) -> None:
    async def test(client: Client) -> None:
        found = await client.get("/api/i18n")
        assert found == {"zh": {"hello": "你好", "nodeDefs": {"Show": {"display_name": "显示"}}}}

    client.run(test)
