"""Handlers that know no web framework."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client


def test_routes_of_the_pack_are_served_with_and_without_api(client: Client) -> None:
    async def test(client: Client) -> None:
        for prefix in ("", "/api"):
            assert await client.get(f"{prefix}/test/echo?a=b") == {"given": {"a": "b"}}
            posted = await client.http.post(f"{prefix}/test/echo", json={"a": [1]})
            assert await posted.json() == {"given": {"a": [1]}}
            assert await client.status("POST", f"{prefix}/test/echo", json=[1]) == 400

    client.run(test)
