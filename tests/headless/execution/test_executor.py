import pytest
from fake_graph import INT, NODES, EventLog, fake_node, node
from sd2_clip.headless.execution.executor import Executor


def run(prompt, classes=None, **options):
    executor = Executor({**NODES, **(classes or {})})
    validation = executor.validate(prompt)
    assert validation.ok, validation.lines()
    return executor.execute(validation, **options)


def shown(prompt, classes=None):
    """What the node "show" received, over all its calls."""
    execution = run(prompt, classes)
    assert execution.status == "success", str(execution.error)
    return execution.outputs["show"]["shown"]


class Blocker:
    def __init__(self, message):
        self.message = message


Blocker.__name__ = "ExecutionBlocker"

LIST = fake_node(
    lambda items: (items,), required={"items": ("*", {})}, returns=("*",), OUTPUT_IS_LIST=(True,)
)


def listed(*items):
    return node("List", items={"__value__": list(items)})


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
    assert run(prompt).executed == ("a1", "a2", "b1", "b2")


def test_node_that_several_use_runs_once():
    prompt = {
        "1": node("Number", value=3),
        "2": node("Add", a=["1", 0], b=["1", 0]),
        "show": node("Show", value=["2", 0]),
    }
    assert run(prompt).executed == ("1", "2", "show")


def test_what_no_output_needs_does_not_run():
    prompt = {"1": node("Number", value=1), "show": node("Show", value=5)}
    assert run(prompt).executed == ("show",)


def test_results_are_those_of_the_outputs():
    add = fake_node(lambda a: (a + 1,), required={"a": INT}, returns=("INT",), OUTPUT_NODE=True)
    execution = run({"1": node("Out", a=4)}, {"Out": add})
    assert execution.results == {"1": ([5],)}


# Lists


def test_longest_list_decides_and_the_last_item_repeats():
    prompt = {
        "1": listed(1, 2, 3),
        "2": listed(10, 20),
        "3": node("Add", a=["1", 0], b=["2", 0]),
        "show": node("Show", value=["3", 0]),
    }
    assert shown(prompt, {"List": LIST}) == [11, 22, 23]


def test_input_is_list_receives_the_lists_themselves():
    total = fake_node(
        lambda items, start: (sum(items) + start[0],),
        required={"items": ("*", {}), "start": INT},
        returns=("INT",),
        INPUT_IS_LIST=True,
    )
    prompt = {
        "1": listed(1, 2, 3),
        "2": node("Total", items=["1", 0], start=100),
        "show": node("Show", value=["2", 0]),
    }
    assert shown(prompt, {"List": LIST, "Total": total}) == [106]


def test_output_list_of_each_call_is_joined():
    twice = fake_node(
        lambda x: ([x, x], x),
        required={"x": INT},
        returns=("INT", "INT"),
        OUTPUT_IS_LIST=(True, False),
    )
    prompt = {
        "1": listed(1, 2),
        "2": node("Twice", x=["1", 0]),
        "show": node("Show", value=["2", 0]),
    }
    assert shown(prompt, {"List": LIST, "Twice": twice}) == [1, 1, 2, 2]


def test_list_without_items_is_an_error_naming_the_input():
    prompt = {"1": listed(), "show": node("Show", value=["1", 0])}
    execution = run(prompt, {"List": LIST})
    assert "input 'value' received an empty list" in str(execution.error)


def test_ui_of_all_calls_is_joined():
    prompt = {"1": listed("a", "b"), "show": node("Show", value=["1", 0])}
    assert shown(prompt, {"List": LIST}) == ["a", "b"]


# What nodes may return


@pytest.mark.parametrize(
    "returned",
    [
        pytest.param((5,), id="tuple"),
        pytest.param([5], id="list"),
        pytest.param({"result": (5,)}, id="result"),
        pytest.param({"result": (5,), "ui": {"text": ["x"]}}, id="result and ui"),
    ],
)
def test_accepted_returns(returned):
    give = fake_node(lambda: returned, returns=("INT",))
    prompt = {"1": node("Give"), "show": node("Show", value=["1", 0])}
    assert shown(prompt, {"Give": give}) == [5]


def test_output_node_may_return_nothing():
    execution = run({"1": node("Out")}, {"Out": fake_node(lambda: None, OUTPUT_NODE=True)})
    assert execution.status == "success"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        pytest.param("text", "returned str; a node returns a tuple", id="text"),
        pytest.param(None, "returned NoneType", id="None in place of an output"),
        pytest.param((), "is output 0 of node 1 (Give), which returned 0", id="too few"),
        pytest.param({"ui": {}}, "which returned 0", id="only ui"),
    ],
)
def test_bad_returns_are_named(returned, words):
    give = fake_node(lambda: returned, returns=("INT",))
    execution = run({"1": node("Give"), "2": node("Show", value=["1", 0])}, {"Give": give})
    assert execution.status == "error"
    assert words in str(execution.error)


def test_coroutine_functions_are_awaited():
    async def later(x):
        return (x * 2,)

    double = fake_node(later, required={"x": INT}, returns=("INT",))
    prompt = {
        "1": listed(1, 2),
        "2": node("Double", x=["1", 0]),
        "show": node("Show", value=["2", 0]),
    }
    assert shown(prompt, {"List": LIST, "Double": double}) == [2, 4]


def test_coroutines_of_one_node_run_together():
    import asyncio

    arrived = []

    async def meet(x):
        arrived.append(x)
        while len(arrived) < 2:
            await asyncio.sleep(0)
        return (x,)

    both = fake_node(meet, required={"x": INT}, returns=("INT",))
    prompt = {
        "1": listed(1, 2),
        "2": node("Meet", x=["1", 0]),
        "show": node("Show", value=["2", 0]),
    }
    assert shown(prompt, {"List": LIST, "Meet": both}) == [1, 2]


# Lazy inputs

SWITCH = fake_node(
    lambda which, a, b: (a if which else b,),
    required={"which": ("BOOLEAN", {}), "a": ("*", {"lazy": True}), "b": ("*", {"lazy": True})},
    returns=("*",),
    check_lazy_status=lambda self, which, a, b: [
        name for name, value in (("a", a), ("b", b)) if which is (name == "a") and value is None
    ],
)


@pytest.mark.parametrize(("which", "ran"), [(True, "a"), (False, "b")])
def test_lazy_input_is_computed_only_if_asked_for(which, ran):
    prompt = {
        "a": node("Number", value=1),
        "b": node("Number", value=2),
        "s": node("Switch", which=which, a=["a", 0], b=["b", 0]),
        "show": node("Show", value=["s", 0]),
    }
    assert run(prompt, {"Switch": SWITCH}).executed == (ran, "s", "show")


def test_lazy_inputs_may_be_asked_for_one_after_the_other():
    def ask(self, a, b):
        return ["a"] if a is None else ["b"] if b is None else []

    both = fake_node(
        lambda a, b: (a + b,),
        required={"a": ("INT", {"lazy": True}), "b": ("INT", {"lazy": True})},
        returns=("INT",),
        check_lazy_status=ask,
    )
    prompt = {
        "a": node("Number", value=1),
        "b": node("Number", value=2),
        "s": node("Both", a=["a", 0], b=["b", 0]),
        "show": node("Show", value=["s", 0]),
    }
    assert run(prompt, {"Both": both}).executed == ("a", "b", "s", "show")


def test_lazy_input_that_another_node_computed_is_there_at_once():
    prompt = {
        "a": node("Number", value=1),
        "first": node("Show", value=["a", 0]),
        "s": node("Switch", which=True, a=["a", 0], b=["a", 0]),
        "show": node("Show", value=["s", 0]),
    }
    assert run(prompt, {"Switch": SWITCH}).executed == ("a", "first", "s", "show")


def test_lazy_input_may_be_a_constant():
    prompt = {
        "s": node("Switch", which=True, a=5, b=6),
        "show": node("Show", value=["s", 0]),
    }
    assert shown(prompt, {"Switch": SWITCH}) == [5]


def test_lazy_input_that_is_not_connected_is_an_error():
    maybe = fake_node(
        lambda a=None: (a,),
        optional={"a": ("INT", {"lazy": True})},
        returns=("INT",),
        check_lazy_status=lambda self, a=None: ["a"],
    )
    execution = run({"1": node("Maybe"), "2": node("Show", value=["1", 0])}, {"Maybe": maybe})
    assert str(execution.error) == "node 1 (Maybe): input 'a' is needed and is not connected"


# Blockers


def block(message):
    return fake_node(lambda: (Blocker(message),), returns=("INT",))


def test_blocked_nodes_are_not_called():
    prompt = {
        "1": node("Block"),
        "2": node("Add", a=["1", 0]),
        "3": node("Show", value=["2", 0]),
        "show": node("Show", value=1),
    }
    execution = run(prompt, {"Block": block(None)})
    assert execution.status == "success"
    assert list(execution.outputs) == ["show"]


def test_message_of_a_blocker_is_reported_once():
    log = EventLog()
    prompt = {
        "1": node("Block"),
        "2": node("Add", a=["1", 0]),
        "3": node("Show", value=["2", 0]),
    }
    execution = run(prompt, {"Block": block("no seed")}, listener=log)
    assert [str(failure) for failure in execution.blocked] == [
        "node 2 (Add): Execution Blocked: no seed"
    ]
    (event,) = log.of("execution_error")
    assert (event["exception_type"], event["node_id"]) == ("ExecutionBlocked", "2")


def test_blocker_in_a_list_blocks_its_call_alone():
    some = fake_node(lambda: ([1, Blocker(None), 3],), returns=("INT",), OUTPUT_IS_LIST=(True,))
    prompt = {
        "1": node("Some"),
        "2": node("Add", a=["1", 0]),
        "show": node("Show", value=["2", 0]),
    }
    assert shown(prompt, {"Some": some}) == [2, 4]


def test_blocker_in_place_of_the_tuple_blocks_every_output():
    whole = fake_node(lambda: Blocker(None), returns=("INT", "INT"))
    prompt = {"1": node("Whole"), "2": node("Show", value=["1", 1])}
    assert run(prompt, {"Whole": whole}).outputs == {}


# Hidden inputs, raw links, objects


def test_hidden_inputs():
    hidden = {
        "prompt": "PROMPT",
        "unique_id": "UNIQUE_ID",
        "info": "EXTRA_PNGINFO",
        "dynamic": "DYNPROMPT",
    }
    seen = {}
    look = fake_node(lambda **inputs: seen.update(inputs), hidden=hidden, OUTPUT_NODE=True)
    prompt = {"7": node("Look")}
    run(prompt, {"Look": look}, extra_data={"extra_pnginfo": {"workflow": {"id": 1}}})
    assert seen["prompt"] == prompt
    assert seen["unique_id"] == "7"
    assert seen["info"] == {"workflow": {"id": 1}}
    assert seen["dynamic"].get_node("7") == prompt["7"]


def test_hidden_input_may_be_declared_as_a_tuple():
    seen = []
    look = fake_node(lambda id: seen.append(id), hidden={"id": ("UNIQUE_ID",)}, OUTPUT_NODE=True)
    run({"7": node("Look")}, {"Look": look})
    assert seen == ["7"]


def test_raw_link_is_handed_on_as_it_is():
    seen = []
    look = fake_node(seen.append, required={"link": ("*", {"rawLink": True})}, OUTPUT_NODE=True)
    look.run = staticmethod(lambda link: seen.append(link))
    run({"1": node("Number", value=1), "2": node("Look", link=["1", 0])}, {"Look": look})
    assert seen == [["1", 0]]


def test_node_object_lives_as_long_as_its_node():
    class Count:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True
        NOT_IDEMPOTENT = True

        def __init__(self):
            self.calls = 0

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"x": INT}}

        def run(self, x):
            self.calls += 1
            return {"ui": {"calls": [self.calls]}}

    executor = Executor({"Count": Count, **NODES})

    def calls(prompt):
        return executor.execute(executor.validate(prompt)).outputs["1"]["calls"][0]

    assert calls({"1": node("Count", x=1)}) == 1
    assert calls({"1": node("Count", x=2), "2": node("Count", x=2)}) == 2
    executor.execute(executor.validate({"3": node("Show", value=1)}))
    assert calls({"1": node("Count", x=3)}) == 1
    executor.clear()
    assert calls({"1": node("Count", x=3)}) == 1


# Expansion


def expanding(expand, result, returns=("INT",), **attributes):
    return fake_node(
        lambda unique_id: {"expand": expand(unique_id), "result": result(unique_id)},
        hidden={"unique_id": "UNIQUE_ID"},
        returns=returns,
        **attributes,
    )


def test_expansion_runs_the_nodes_it_adds():
    two = expanding(
        lambda me: {
            f"{me}.n": node("Number", value=1),
            f"{me}.a": node("Add", a=[f"{me}.n", 0], b=1),
        },
        lambda me: ([f"{me}.a", 0],),
    )
    prompt = {"1": node("Two"), "show": node("Show", value=["1", 0])}
    execution = run(prompt, {"Two": two})
    assert execution.outputs["show"]["shown"] == [2]
    assert execution.executed == ("1.n", "1.a", "1", "show")


def test_node_of_an_expansion_that_nothing_needs_does_not_run():
    spare = expanding(lambda me: {"x": node("Number", value=1)}, lambda me: (5,))
    prompt = {"1": node("Spare"), "show": node("Show", value=["1", 0])}
    assert run(prompt, {"Spare": spare}).executed == ("1", "show")


def test_expansion_may_expand_again():
    def count_down(n, unique_id):
        if n == 0:
            return (100,)
        inner = f"{unique_id}.{n}"
        return {"expand": {inner: node("Count", n=n - 1)}, "result": ([inner, 0],)}

    count = fake_node(
        count_down, required={"n": INT}, hidden={"unique_id": "UNIQUE_ID"}, returns=("INT",)
    )
    prompt = {"1": node("Count", n=3), "show": node("Show", value=["1", 0])}
    assert shown(prompt, {"Count": count}) == [100]


def test_output_nodes_of_an_expansion_run_and_belong_to_the_node():
    show = expanding(
        lambda me: {f"{me}.s": node("Show", value=9)}, lambda me: (1,), OUTPUT_NODE=True
    )
    execution = run({"1": node("More")}, {"More": show})
    assert execution.outputs["1.s"] == {"shown": [9]}
    assert execution.meta["1.s"] == {
        "node_id": "1.s",
        "display_node": "1",
        "parent_node": "1",
        "real_node_id": "1",
    }


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        pytest.param([4, 5], [4, 5], id="a list of values"),
        pytest.param(["x", 0], [1, 2], id="a link to a list"),
    ],
)
def test_expansion_may_give_a_list(result, expected):
    many = expanding(lambda me: {"x": listed(1, 2)}, lambda me: (result,), OUTPUT_IS_LIST=(True,))
    prompt = {"1": node("Many"), "show": node("Show", value=["1", 0])}
    assert shown(prompt, {"Many": many, "List": LIST}) == expected


@pytest.mark.parametrize(
    ("expand", "result", "words"),
    [
        pytest.param(
            lambda me: {"1": node("Number", value=1)}, (1,), "there is one already", id="id taken"
        ),
        pytest.param(lambda me: {"x": node("Nope")}, (1,), "not installed", id="no such class"),
        pytest.param(
            lambda me: {"x": node("Add", a=["y", 0])}, (1,), "does not exist", id="link to nowhere"
        ),
        pytest.param(
            lambda me: {"x": node("Number", value=1)},
            (["y", 0],),
            "comes from node y",
            id="result from nowhere",
        ),
        pytest.param(
            lambda me: {"x": node("Add", a=["1", 0])}, (["x", 0],), "waits for it", id="cycle"
        ),
    ],
)
def test_bad_expansion_is_an_error_of_its_node(expand, result, words):
    bad = expanding(expand, lambda me: result)
    execution = run({"1": node("Bad"), "2": node("Show", value=["1", 0])}, {"Bad": bad})
    assert execution.error.node_id == "1"
    assert words in execution.error.message


# Errors and interruption


def fail(error):
    def raising(**inputs):
        raise error

    return fake_node(raising, required={"x": INT}, returns=("INT",), TITLE="Failing Node")


def test_exception_names_node_and_title():
    execution = run(
        {"5": node("Fail", x=1), "6": node("Show", value=["5", 0])},
        {"Fail": fail(ValueError("no such file"))},
    )
    assert execution.status == "error"
    assert str(execution.error) == "node 5 (Failing Node): no such file"


def test_title_of_the_node_comes_before_that_of_its_class():
    prompt = {"5": node("Fail", x=1, title="Mine"), "6": node("Show", value=["5", 0])}
    execution = run(prompt, {"Fail": fail(ValueError("no"))})
    assert str(execution.error) == "node 5 (Mine): no"


def test_exception_may_blame_an_input():
    error = ValueError("too long")
    error.input_name = "x"
    execution = run(
        {"5": node("Fail", x=1), "6": node("Show", value=["5", 0])}, {"Fail": fail(error)}
    )
    assert str(execution.error) == "node 5 (Failing Node), input 'x': too long"


def test_failure_keeps_the_exception_and_the_inputs():
    error = ValueError("no")
    execution = run(
        {"5": node("Fail", x=7), "6": node("Show", value=["5", 0])}, {"Fail": fail(error)}
    )
    assert execution.error.exception is error
    assert execution.error.inputs == {"x": [7]}


def test_nothing_runs_after_an_error_and_what_ran_is_kept():
    prompt = {
        "1": node("Show", value=1),
        "2": node("Fail", x=1),
        "3": node("Show", value=["2", 0]),
        "4": node("Show", value=4),
    }
    execution = run(prompt, {"Fail": fail(ValueError("no"))})
    assert list(execution.outputs) == ["1"]


def test_interrupt_stops_before_the_next_node():
    executor = Executor(
        {**NODES, "Stop": fake_node(lambda: executor.interrupt() or (1,), returns=("INT",))}
    )
    prompt = {"1": node("Stop"), "2": node("Show", value=["1", 0])}
    execution = executor.execute(executor.validate(prompt))
    assert (execution.status, execution.executed) == ("interrupted", ("1",))


def test_interrupt_stops_at_a_progress_report():
    from sd2_clip.host.interface import progress_sink

    def work():
        executor.interrupt()
        try:
            progress_sink.get()(1, 2)
        except Exception:
            return (1,)
        return (2,)

    executor = Executor({**NODES, "Work": fake_node(work, returns=("INT",))})
    prompt = {"1": node("Work"), "2": node("Show", value=["1", 0])}
    execution = executor.execute(executor.validate(prompt))
    assert (execution.status, execution.executed) == ("interrupted", ())


def test_interrupt_of_one_run_does_not_stop_the_next():
    executor = Executor(NODES)
    executor.interrupt()
    validation = executor.validate({"1": node("Show", value=1)})
    assert executor.execute(validation).status == "success"
