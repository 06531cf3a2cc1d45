"""What the WebSocket sends to each client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from editor_client import WAIT, Client, events_until, show


def test_events_come_in_the_order_that_the_frontend_likes(client: Client) -> None:
    async def test(client: Client) -> None:
        socket = await client.connect("page")
        prompt_id = await client.queue(show(5), client_id="page")
        events = await events_until(socket, "executing")
        names = [name for name, _ in events if name not in ("status", "progress_state")]
        assert names == [
            "execution_start",
            "execution_cached",
            "executing",
            "executing",
            "progress",
            "executed",
            "execution_success",
            "executing",
        ]
        assert events[0] == (
            "status",
            {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "page"},
        )
        data = dict(events)
        assert data["executed"]["output"]["text"] == ["it is 5"]
        assert data["progress_state"]["nodes"]["2"]["state"] == "finished"
        assert {d["prompt_id"] for n, d in events if n.startswith("exec")} == {prompt_id}
        assert (await events_until(socket, "status"))[-1][1]["status"]["exec_info"] == {
            "queue_remaining": 0
        }

    client.run(test)


def test_history_is_complete_when_the_last_event_arrives(client: Client) -> None:
    async def test(client: Client) -> None:
        socket = await client.connect("page")
        prompt_id = await client.queue(show(5), client_id="page")
        await events_until(socket, "executing")
        assert prompt_id in await client.get(f"/history/{prompt_id}")

    client.run(test)


def test_other_clients_hear_of_the_queue_only(client: Client) -> None:
    async def test(client: Client) -> None:
        other = await client.connect("other")
        await client.finished(await client.queue(show(5), client_id="page"))
        await client.finished(await client.queue(show(6), client_id="other"))
        events = await events_until(other, "execution_start")
        assert {name for name, _ in events[:-1]} == {"status"}

    client.run(test)


def test_feature_flags_are_answered(client: Client) -> None:
    async def test(client: Client) -> None:
        socket = await client.connect("page")
        await socket.send_json({"type": "feature_flags", "data": {"supports_preview": True}})
        [*_, (_, flags)] = await events_until(socket, "feature_flags")
        assert flags["max_upload_size"] > 0

    client.run(test)


@pytest.mark.parametrize("text", ["no json", "[1]", '{"type": 5}', "[" * 100_000], ids=range(4))
def test_nonsense_on_the_socket_is_ignored(client: Client, text: str) -> None:
    async def test(client: Client) -> None:
        socket = await client.connect("page")
        await socket.send_str(text)
        await socket.send_json({"type": "feature_flags", "data": {}})
        await events_until(socket, "feature_flags")

    client.run(test)


def test_newest_page_of_an_id_gets_the_events(client: Client) -> None:
    async def test(client: Client) -> None:
        old = await client.connect("page")
        await events_until(old, "status")
        new = await client.connect("page")
        await client.queue(show(5), client_id="page")
        assert (await events_until(new, "executing"))[-1][1]["node"] is None
        while not old.closed:
            await old.receive()

    client.run(test)


def test_reloaded_page_learns_which_node_is_at_work(client: Client, wait: Any) -> None:
    async def test(client: Client) -> None:
        await client.queue(WAIT, client_id="page")
        await asyncio.to_thread(wait.begun.wait)
        socket = await client.connect("page")
        [*_, (_, data)] = await events_until(socket, "progress")
        events = {"node": "9"}
        assert data["node"] == events["node"]

    client.run(test)
