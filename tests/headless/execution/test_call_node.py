import pytest
from fake_graph import (
    INT,
    LIST,
    executed,
    fake_node,
    listed,
    node,
    shown,
)


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
    execution = executed(prompt, {"List": LIST})
    assert "input 'value' received an empty list" in str(execution.error)


def test_ui_of_all_calls_is_joined():
    prompt = {"1": listed("a", "b"), "show": node("Show", value=["1", 0])}
    assert shown(prompt, {"List": LIST}) == ["a", "b"]


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
    execution = executed({"1": node("Out")}, {"Out": fake_node(lambda: None, OUTPUT_NODE=True)})
    assert execution.status == "success"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        pytest.param("text", "returned str; a node returns a tuple", id="text"),
        pytest.param(None, "returned NoneType", id="None in place of an output"),
        pytest.param((), "is output 0 of node 1 (Give), which returned 0", id="too few"),
        pytest.param({"ui": {}}, "which returned 0", id="only ui"),
        pytest.param(
            {"expand": {"x": {}}, "result": (["x", 0],)}, "Give expands into other", id="expansion"
        ),
    ],
)
def test_bad_returns_are_named(returned, words):
    give = fake_node(lambda: returned, returns=("INT",))
    execution = executed({"1": node("Give"), "2": node("Show", value=["1", 0])}, {"Give": give})
    assert execution.status == "error"
    assert words in str(execution.error)
