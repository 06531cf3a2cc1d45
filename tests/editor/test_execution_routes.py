"""Prompts over HTTP: queued, listed, interrupted, kept in the history."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from editor_client import WAIT, Client, show


def test_prompt_runs_and_leaves_its_result_in_the_history(client: Client) -> None:
    async def test(client: Client) -> None:
        item = await client.finished(await client.queue(show(5)))
        assert item["outputs"]["2"]["text"] == ["it is 5"]
        assert item["status"]["status_str"] == "success"
        assert item["status"]["completed"] is True
        assert item["prompt"][2] == show(5)
        assert item["prompt"][4] == ["2"]

    client.run(test)


def test_results_that_json_cannot_hold_become_null(client: Client) -> None:
    async def test(client: Client) -> None:
        item = await client.finished(await client.queue(show(5)))
        assert item["outputs"]["2"]["odd"] == [None]

    client.run(test)


def test_invalid_prompt_is_refused_with_reasons_by_node(client: Client) -> None:
    async def test(client: Client) -> None:
        response = await client.http.post("/api/prompt", json={"prompt": show(-1)})
        answer = await response.json()
        assert response.status == 400
        assert answer["error"]["type"] == "prompt_outputs_failed_validation"
        [error] = answer["node_errors"]["1"]["errors"]
        assert error["type"] == "value_smaller_than_min"

    client.run(test)


@pytest.mark.parametrize(
    "prompt", [[], {"1": 5}, {"nodes": []}], ids=["list", "node", "editor's format"]
)
def test_what_is_not_a_prompt_is_invalid(client: Client, prompt: Any) -> None:
    async def test(client: Client) -> None:
        response = await client.http.post("/prompt", json={"prompt": prompt})
        answer = await response.json()
        assert (response.status, answer["node_errors"]) == (400, {})
        assert answer["error"]["type"] == "invalid_prompt"
        assert (answer["error"]["details"], answer["error"]["extra_info"]) == ("", {})

    client.run(test)


def test_bad_nodes_beside_good_outputs_are_in_the_answer(client: Client) -> None:
    async def test(client: Client) -> None:
        prompt = show(5) | {"9": {"class_type": "Nothing", "inputs": {}}}
        response = await client.http.post("/prompt", json={"prompt": prompt})
        answer = await response.json()
        assert response.status == 200
        assert answer["node_errors"]["9"]["errors"][0]["type"] == "missing_node_type"

    client.run(test)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"prompt": 5}', 400),
        (b"\xff", 400),
        (b"9" * 5000, 400),
    ],
    ids=["broken", "no object", "no prompt", "prompt is a number", "no text", "huge"],
)
def test_nonsense_for_a_prompt_is_refused(client: Client, body: bytes, status: int) -> None:
    async def test(client: Client) -> None:
        response = await client.http.post("/prompt", data=body)
        assert response.status == status
        assert "error" in await response.json()

    client.run(test)


def test_prompt_id_of_the_client_is_kept(client: Client) -> None:
    async def test(client: Client) -> None:
        assert await client.queue(show(5), prompt_id="mine") == "mine"
        await client.finished("mine")

    client.run(test)


def test_only_the_targets_asked_for_are_run(client: Client) -> None:
    async def test(client: Client) -> None:
        prompt = show(5) | {"3": {"class_type": "Show", "inputs": {"value": ["1", 0]}}}
        prompt_id = await client.queue(prompt, partial_execution_targets=["3"])
        assert set((await client.finished(prompt_id))["outputs"]) == {"3"}

    client.run(test)


def test_waiting_prompts_are_listed_deleted_and_cleared(client: Client, wait: Any) -> None:
    async def test(client: Client) -> None:
        await client.queue(WAIT)
        await asyncio.to_thread(wait.begun.wait)
        first, second, third = [await client.queue(show(n)) for n in (1, 2, 3)]
        front = await client.queue(show(4), front=True)

        async def waiting() -> list[str]:
            return [item[1] for item in (await client.get("/queue"))["queue_pending"]]

        assert await waiting() == [front, first, second, third]
        await client.status("POST", "/queue", json={"delete": [second]})
        assert await waiting() == [front, first, third]
        await client.status("POST", f"/api/jobs/{first}/cancel")
        assert await waiting() == [front, third]
        assert (await client.get("/prompt"))["exec_info"]["queue_remaining"] == 3
        await client.status("POST", "/queue", json={"clear": True})
        assert await waiting() == []

    client.run(test)


def test_jobs_are_filtered_sorted_and_paged(client: Client) -> None:
    async def test(client: Client) -> None:
        for value in (1, 2, 13):
            await client.finished(await client.queue(show(value), prompt_id=f"job {value}"))
        page = await client.get("/api/jobs?status=completed&limit=1&offset=0")
        assert [job["id"] for job in page["jobs"]] == ["job 2"]
        assert page["pagination"] == {"offset": 0, "limit": 1, "total": 2, "has_more": True}
        assert page["jobs"][0]["preview_output"]["content"] == "it is 2"
        ordered = await client.get("/api/jobs?sort_order=asc")
        assert [job["id"] for job in ordered["jobs"]] == ["job 1", "job 2", "job 13"]

    client.run(test)


def test_history_is_cut_by_max_items_and_forgotten_on_request(client: Client) -> None:
    async def test(client: Client) -> None:
        for value in (1, 2, 3):
            await client.finished(await client.queue(show(value), prompt_id=f"job {value}"))
        assert list(await client.get("/history?max_items=2")) == ["job 2", "job 3"]
        assert list(await client.get("/history?offset=0&max_items=1")) == ["job 1"]
        await client.status("POST", "/history", json={"delete": ["job 2"]})
        assert list(await client.get("/history")) == ["job 1", "job 3"]
        await client.status("POST", "/history", json={"clear": True})
        assert await client.get("/history") == {}

    client.run(test)
