from fake_graph import INT, executed, fake_node, node, shown
from sd2_clip.headless.execution.executor import Executor
from sd2_clip.host.interface import progress_sink


def test_values_flow_along_links():
    prompt = {
        "1": node("Number", value=3),
        "2": node("Add", a=["1", 0], b=4),
        "show": node("Show", value=["2", 0]),
    }
    assert shown(prompt) == [7]


def test_absent_optional_input_is_left_to_the_function():
    prompt = {"2": node("Add", a=3), "show": node("Show", value=["2", 0])}
    assert shown(prompt) == [4]


def test_nodes_run_depth_first_from_each_output_in_order():
    prompt = {
        "a2": node("Show", value=["a1", 0]),
        "b1": node("Number", value=2),
        "a1": node("Number", value=1),
        "b2": node("Show", value=["b1", 0]),
    }
    assert executed(prompt).executed == ("a1", "a2", "b1", "b2")


def test_node_that_several_use_runs_once():
    prompt = {
        "1": node("Number", value=3),
        "2": node("Add", a=["1", 0], b=["1", 0]),
        "show": node("Show", value=["2", 0]),
    }
    assert executed(prompt).executed == ("1", "2", "show")


def test_what_no_output_needs_does_not_run():
    prompt = {"1": node("Number", value=1), "show": node("Show", value=5)}
    assert executed(prompt).executed == ("show",)


def test_results_are_those_of_the_outputs():
    add = fake_node(lambda a: (a + 1,), required={"a": INT}, returns=("INT",), OUTPUT_NODE=True)
    execution = executed({"1": node("Out", a=4)}, {"Out": add})
    assert execution.results == {"1": ([5],)}


def test_hidden_inputs():
    hidden = {"prompt": "PROMPT", "unique_id": "UNIQUE_ID", "info": "EXTRA_PNGINFO"}
    seen = {}
    look = fake_node(lambda **inputs: seen.update(inputs), hidden=hidden, OUTPUT_NODE=True)
    prompt = {"7": node("Look")}
    executed(prompt, {"Look": look}, extra_data={"extra_pnginfo": {"workflow": {"id": 1}}})
    assert seen["prompt"] == prompt
    assert seen["unique_id"] == "7"
    assert seen["info"] == {"workflow": {"id": 1}}


def test_hidden_input_may_be_declared_as_a_tuple():
    seen = []
    look = fake_node(lambda id: seen.append(id), hidden={"id": ("UNIQUE_ID",)}, OUTPUT_NODE=True)
    executed({"7": node("Look")}, {"Look": look})
    assert seen == ["7"]


def test_lazy_input_is_computed_like_any_other():
    """Skipping its source would only save time; the function receives the value either way."""
    pick = fake_node(
        lambda which, a: (a if which else 0,),
        required={"which": ("BOOLEAN", {}), "a": ("INT", {"lazy": True})},
        returns=("INT",),
        check_lazy_status=lambda self, which, a: ["a"],
    )
    prompt = {
        "1": node("Number", value=5),
        "2": node("Pick", which=True, a=["1", 0]),
        "show": node("Show", value=["2", 0]),
    }
    assert shown(prompt, {"Pick": pick}) == [5]


def test_nothing_runs_after_an_error_and_what_ran_is_kept():
    prompt = {
        "1": node("Show", value=1),
        "2": node("Fail", x=1),
        "3": node("Show", value=["2", 0]),
        "4": node("Show", value=4),
    }
    execution = executed(
        prompt, {"Fail": fake_node(lambda x: 1 / 0, required={"x": INT}, returns=("INT",))}
    )
    assert list(execution.outputs) == ["1"]


def test_interrupt_stops_before_the_next_node():
    executor = Executor()
    stop = fake_node(lambda: executor.interrupt() or (1,), returns=("INT",))
    prompt = {"1": node("Stop"), "2": node("Show", value=["1", 0])}
    execution = executed(prompt, {"Stop": stop}, executor)
    assert (execution.status, execution.executed) == ("interrupted", ("1",))


def test_interrupt_stops_at_a_progress_report():
    def work():
        executor.interrupt()
        try:
            progress_sink.get()(1, 2)
        except Exception:
            return (1,)
        return (2,)

    executor = Executor()
    prompt = {"1": node("Work"), "2": node("Show", value=["1", 0])}
    execution = executed(prompt, {"Work": fake_node(work, returns=("INT",))}, executor)
    assert (execution.status, execution.executed) == ("interrupted", ())
