"""The thread that runs prompts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from editor_client import WAIT, Client, events_until, show


def test_unchanged_nodes_are_cached_in_the_second_run(client: Client) -> None:
    async def test(client: Client) -> None:
        await client.finished(await client.queue(show(5)))
        socket = await client.connect("page")
        await client.queue(show(5), client_id="page")
        events = dict(await events_until(socket, "executing"))
        assert set(events["execution_cached"]["nodes"]) == {"1", "2"}

    client.run(test)


def test_exception_of_a_node_is_told_and_kept(client: Client) -> None:
    async def test(client: Client) -> None:
        socket = await client.connect("page")
        prompt_id = await client.queue(show(13), client_id="page")
        error = dict(await events_until(socket, "executing"))["execution_error"]
        assert error["node_id"] == "2"
        assert error["exception_message"].strip() == "thirteen is no good"
        item = await client.finished(prompt_id)
        assert item["status"]["status_str"] == "error"
        assert item["status"]["completed"] is False
        [job] = (await client.get("/api/jobs"))["jobs"]
        assert job["status"] == "failed"
        assert job["execution_error"]["node_type"] == "Show"

    client.run(test)


def test_worker_survives_a_node_that_exits(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(client: Client) -> None:
        socket = await client.connect("page")
        await client.queue(show(66), client_id="page")
        error = dict(await events_until(socket, "executing"))["execution_error"]
        assert error["exception_type"] == "SystemExit"
        assert error["node_id"] == "2"
        item = await client.finished(await client.queue(show(5)))
        assert item["status"]["completed"] is True

    client.run(test)


def test_history_says_that_each_result_is_its_nodes_own(client: Client) -> None:
    async def test(client: Client) -> None:
        item = await client.finished(await client.queue(show(5)))
        own = {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}
        assert item["meta"] == {"2": own}

    client.run(test)


def test_interrupt_stops_the_running_prompt(client: Client, wait: Any) -> None:
    async def test(client: Client) -> None:
        prompt_id = await client.queue(WAIT)
        await asyncio.to_thread(wait.begun.wait)
        assert [job[1] for job in (await client.get("/queue"))["queue_running"]] == [prompt_id]
        assert await client.status("POST", "/interrupt") == 200
        item = await client.finished(prompt_id)
        assert item["status"]["messages"][-1][0] == "execution_interrupted"
        assert (await client.get(f"/api/jobs/{prompt_id}"))["status"] == "cancelled"

    client.run(test)


def test_interrupt_for_another_prompt_does_nothing(client: Client, wait: Any) -> None:
    async def test(client: Client) -> None:
        prompt_id = await client.queue(WAIT)
        await asyncio.to_thread(wait.begun.wait)
        await client.status("POST", "/interrupt", json={"prompt_id": "other"})
        wait.go_on.set()
        assert (await client.finished(prompt_id))["status"]["completed"] is True

    client.run(test)


def test_free_forgets_cached_results(client: Client) -> None:
    async def test(client: Client) -> None:
        await client.finished(await client.queue(show(5)))
        await client.status("POST", "/free", json={"free_memory": True})
        socket = await client.connect("page")
        await client.queue(show(5), client_id="page")
        events = dict(await events_until(socket, "executing"))
        assert events["execution_cached"]["nodes"] == []

    client.run(test)


def test_stopping_the_server_interrupts_the_running_prompt(client: Client, wait: Any) -> None:
    async def test(client: Client) -> None:
        await client.queue(WAIT)
        await asyncio.to_thread(wait.begun.wait)

    client.run(test)  # ends only if the worker does
    assert not wait.go_on.is_set()
