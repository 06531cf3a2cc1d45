from fake_graph import INT, EventLog, executed, fake_node, node
from sd2_clip.headless.execution.events import MOST_NODES_IN_STATE
from sd2_clip.headless.execution.executor import Executor
from sd2_clip.host.interface import progress_sink

PROMPT = {"1": node("Number", value=3), "2": node("Show", value=["1", 0])}


def run(prompt, classes=None, executor=None):
    log = EventLog()
    executed(prompt, classes, executor, prompt_id="p", listener=log)
    return log


def without_time(data):
    assert isinstance(data["timestamp"], int)
    return {key: value for key, value in data.items() if key != "timestamp"}


def test_order_of_events():
    assert run(PROMPT).names == [
        "execution_start",
        "execution_cached",
        "executing",
        "progress_state",
        "progress_state",
        "executing",
        "progress_state",
        "executed",
        "progress_state",
        "execution_success",
    ]


def test_payloads():
    log = run(PROMPT)
    assert without_time(log.of("execution_start")[0]) == {"prompt_id": "p"}
    assert without_time(log.of("execution_cached")[0]) == {"nodes": [], "prompt_id": "p"}
    assert log.of("executing")[0] == {"node": "1", "display_node": "1", "prompt_id": "p"}
    assert log.of("executed") == [
        {"node": "2", "display_node": "2", "output": {"shown": [3]}, "prompt_id": "p"}
    ]
    assert without_time(log.of("execution_success")[0]) == {"prompt_id": "p"}


def test_progress_state_has_all_nodes_begun():
    assert run(PROMPT).of("progress_state")[2] == {
        "prompt_id": "p",
        "nodes": {
            "1": {
                "value": 1.0,
                "max": 1.0,
                "state": "finished",
                "node_id": "1",
                "prompt_id": "p",
                "display_node_id": "1",
                "parent_node_id": None,
                "real_node_id": "1",
            },
            "2": {
                "value": 0.0,
                "max": 1.0,
                "state": "running",
                "node_id": "2",
                "prompt_id": "p",
                "display_node_id": "2",
                "parent_node_id": None,
                "real_node_id": "2",
            },
        },
    }


def test_progress_state_does_not_grow_without_end():
    prompt = {str(i): node("Show", value=i) for i in range(MOST_NODES_IN_STATE + 10)}
    last = run(prompt).of("progress_state")[-1]["nodes"]
    assert len(last) == MOST_NODES_IN_STATE
    assert list(last)[-1] == str(MOST_NODES_IN_STATE + 9)


def test_reports_of_a_node_become_progress():
    def work():
        progress_sink.get()(1, 4)
        return (1,)

    log = run(
        {"1": node("Work"), "2": node("Show", value=["1", 0])},
        {"Work": fake_node(work, returns=("INT",))},
    )
    assert log.of("progress") == [{"value": 1, "max": 4, "prompt_id": "p", "node": "1"}]
    states = [data["nodes"]["1"] for data in log.of("progress_state")]
    assert [(s["value"], s["max"], s["state"]) for s in states[:3]] == [
        (0.0, 1.0, "running"),
        (1, 4, "running"),
        (4, 4, "finished"),
    ]


def test_sink_is_set_only_while_a_node_runs():
    run(PROMPT)
    assert progress_sink.get() is None


def test_cached_run_names_the_nodes_and_resends_the_outputs():
    executor = Executor()
    run(PROMPT, executor=executor)
    log = run(PROMPT, executor=executor)
    assert log.of("execution_cached")[0]["nodes"] == ["1", "2"]
    assert log.of("executing") == []
    assert log.of("executed")[0]["output"] == {"shown": [3]}


def test_error_event():
    def explode(x):
        raise ValueError("no")

    log = run(
        {
            "0": node("Number", value=1),
            "1": node("Fail", x=["0", 0]),
            "2": node("Show", value=["1", 0]),
        },
        {"Fail": fake_node(explode, required={"x": INT}, returns=("INT",))},
    )
    data = without_time(log.of("execution_error")[0])
    assert "explode" in "".join(data.pop("traceback"))
    assert data == {
        "prompt_id": "p",
        "node_id": "1",
        "node_type": "Fail",
        "executed": ["0"],
        "exception_message": "no",
        "exception_type": "ValueError",
        "current_inputs": {"x": [1]},
        "current_outputs": ["0"],
    }
    assert "execution_success" not in log.names


def test_interrupted_event():
    executor = Executor()
    stop = fake_node(lambda: executor.interrupt() or (1,), returns=("INT",))
    log = run({"1": node("Stop"), "2": node("Show", value=["1", 0])}, {"Stop": stop}, executor)
    assert without_time(log.of("execution_interrupted")[0]) == {
        "prompt_id": "p",
        "node_id": "2",
        "node_type": "Show",
        "executed": ["1"],
    }
