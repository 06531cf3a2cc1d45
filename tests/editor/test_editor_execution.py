"""Prompts over HTTP, and what the WebSocket tells of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client, events_until


def show(value: int) -> dict[str, Any]:
    return {
        "1": {"class_type": "Number", "inputs": {"value": value}},
        "2": {"class_type": "Show", "inputs": {"value": ["1", 0]}},
    }


WAIT = {"9": {"class_type": "Wait", "inputs": {}}}


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


def test_unchanged_nodes_are_cached_in_the_second_run(client: Client) -> None:
    async def test(client: Client) -> None:
        await client.finished(await client.queue(show(5)))
        socket = await client.connect("page")
        await client.queue(show(5), client_id="page")
        events = dict(await events_until(socket, "executing"))
        assert set(events["execution_cached"]["nodes"]) == {"1", "2"}

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


def test_history_says_that_each_result_is_its_nodes_own(client: Client) -> None:
    async def test(client: Client) -> None:
        item = await client.finished(await client.queue(show(5)))
        own = {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}
        assert item["meta"] == {"2": own}

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


def test_reloaded_page_learns_which_node_is_at_work(client: Client, wait: Any) -> None:
    async def test(client: Client) -> None:
        await client.queue(WAIT, client_id="page")
        await asyncio.to_thread(wait.begun.wait)
        socket = await client.connect("page")
        [*_, (_, data)] = await events_until(socket, "progress")
        events = {"node": "9"}
        assert data["node"] == events["node"]

    client.run(test)


def test_nodes_are_described_in_comfyui_s_words(client: Client) -> None:
    async def test(client: Client) -> None:
        for path in ("/object_info", "/api/object_info", "/api/object_info/Number"):
            info = (await client.get(path))["Number"]
            assert info["input_order"] == {"required": ["value"]}
            assert info["output_name"] == ["INT"]
            assert info["python_module"] == "custom_nodes.our-pack"
            assert info["search_aliases"] == ["integer"]
            assert info["output_node"] is False
        assert await client.get("/object_info/Nothing") == {}

    client.run(test)
