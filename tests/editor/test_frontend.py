"""The frontend's own files."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client


def test_frontend_is_served_with_our_scripts(client: Client) -> None:
    async def test(client: Client) -> None:
        assert "the frontend" in await (await client.http.get("/")).text()
        assert await client.status("GET", "/assets/main.js") == 200
        scripts = await client.get("/api/extensions")
        assert scripts == ["/extensions/core/a.js", "/extensions/our-pack/ours.js"]
        for script in scripts:
            response = await client.http.get(script)
            assert response.status == 200
            assert response.content_type in ("text/javascript", "application/javascript")

    client.run(test)
