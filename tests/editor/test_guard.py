"""Who may send requests."""

from __future__ import annotations

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client

FOREIGN = {
    "host": {"Host": "evil.example"},
    "host that ends like ours": {"Host": "localhost.evil.example"},
    "host with a user": {"Host": "localhost@evil.example"},
    "origin": {"Origin": "http://evil.example"},
    "other port of this machine": {"Origin": "http://127.0.0.1:1"},
    "sandboxed page": {"Origin": "null"},
    "image of a foreign page": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_pages_are_refused(
    client: Client, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    async def test(client: Client) -> None:
        for method, path in (("GET", "/api/object_info"), ("POST", "/prompt"), ("GET", "/ws")):
            assert await client.status(method, path, headers=headers) == 403

    client.run(test)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:8188"},
        {"Host": "[::1]:8188"},
        {"Host": "localhost:8188", "Origin": "http://localhost:8188"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ],
    ids=["localhost", "IPv6", "own origin", "link on another page"],
)
def test_own_pages_are_served(client: Client, headers: dict[str, str]) -> None:
    async def test(client: Client) -> None:
        assert await client.status("GET", "/api/users", headers=headers) == 200

    client.run(test)
