import math

import pytest
from fake_graph import INT, NODES, class_function, executed, fake_node, node, validated
from sd2_clip.headless.execution.executor import Executor


class Runs:
    """An executor that says which nodes ran."""

    def __init__(self, **classes):
        self.executor = Executor()
        self.classes = {**NODES, **classes}

    def __call__(self, prompt, targets=None):
        validation = validated(prompt, self.classes, targets)
        assert validation.ok, validation.lines()
        return self.executor.execute(validation).executed


def prompt_of(value=1, b=1):
    return {
        "1": node("Number", value=value),
        "2": node("Add", a=["1", 0], b=b),
        "3": node("Show", value=["2", 0]),
    }


def test_same_prompt_runs_nothing():
    runs = Runs()
    runs(prompt_of())
    assert runs(prompt_of()) == ()


def test_change_runs_what_depends_on_it():
    runs = Runs()
    runs(prompt_of(b=1))
    assert runs(prompt_of(b=2)) == ("2", "3")


def test_titles_do_not_matter():
    runs = Runs()
    runs({"1": node("Show", value=1)})
    assert runs({"1": node("Show", value=1, title="Renamed")}) == ()


def test_ids_do_not_matter():
    runs = Runs()
    runs(prompt_of())
    renumbered = {
        "a": node("Number", value=1),
        "b": node("Add", a=["a", 0], b=1),
        "c": node("Show", value=["b", 0]),
    }
    assert runs(renumbered) == ()


def test_outputs_in_the_cache_still_show_their_ui():
    executor = Executor()
    for _ in range(2):
        execution = executed(prompt_of(), executor=executor)
        assert execution.outputs == {"3": {"shown": [2]}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (1.5, 2.5),
        (0, False),
        ("1", 1),
        (None, "None"),
        ([1], [1, 1]),
        ({"a": 1}, {"b": 1}),
    ],
    ids=repr,
)
def test_values_of_different_types_are_different(one, other):
    runs = Runs()
    wrap = {"__value__": None}
    runs({"1": node("Show", value={**wrap, "__value__": one})})
    assert runs({"1": node("Show", value={**wrap, "__value__": other})}) == ("1",)


@pytest.mark.parametrize(
    "value", [1, -1, 1.5, True, False, None, "", "猫", [1, [2]], {"b": 1, "a": [None]}], ids=repr
)
def test_same_value_is_the_same(value):
    runs = Runs()
    prompt = {"1": node("Show", value={"__value__": value})}
    runs(prompt)
    assert runs(prompt) == ()


def test_neighbouring_texts_are_not_confused():
    two = fake_node(
        lambda a, b: (), required={"a": ("STRING", {}), "b": ("STRING", {})}, OUTPUT_NODE=True
    )
    runs = Runs(Two=two)
    runs({"1": node("Two", a="x", b="yz")})
    assert runs({"1": node("Two", a="xy", b="z")}) == ("1",)


def test_output_slot_matters():
    pair = fake_node(lambda: (1, 2), returns=("INT", "INT"))
    runs = Runs(Pair=pair)
    runs({"1": node("Pair"), "2": node("Show", value=["1", 0])})
    assert runs({"1": node("Pair"), "2": node("Show", value=["1", 1])}) == ("2",)


def test_twins_of_one_prompt_share_a_result():
    runs = Runs()
    prompt = {
        "1": node("Number", value=1),
        "2": node("Number", value=1),
        "3": node("Show", value=["1", 0]),
        "4": node("Show", value=["2", 0], extra=1),
    }
    assert "2" not in runs(prompt)


@pytest.mark.parametrize(
    "attributes",
    [{"hidden": {"id": "UNIQUE_ID"}}, {"NOT_IDEMPOTENT": True}],
    ids=["UNIQUE_ID", "NOT_IDEMPOTENT"],
)
def test_twins_that_depend_on_their_id_do_not(attributes):
    own = fake_node(lambda **_: (1,), returns=("INT",), **attributes)
    runs = Runs(Own=own)
    prompt = {
        "1": node("Own"),
        "2": node("Own"),
        "3": node("Show", value=["1", 0]),
        "4": node("Show", value=["2", 0]),
    }
    assert runs(prompt) == ("1", "3", "2", "4")
    assert runs(prompt) == ()


def changing(is_changed):
    return fake_node(
        lambda x: (x,), required={"x": INT}, returns=("INT",), IS_CHANGED=class_function(is_changed)
    )


CHANGING = {"1": node("Changing", x=1), "2": node("Show", value=["1", 0])}


def test_is_changed_decides():
    version = ["a"]
    runs = Runs(Changing=changing(lambda x: version[0]))
    runs(CHANGING)
    assert runs(CHANGING) == ()
    version[0] = "b"
    assert runs(CHANGING) == ("1", "2")


@pytest.mark.parametrize(
    "answer",
    [math.nan, [1, math.nan], {"a": math.nan}, object()],
    ids=["nan", "nan in a list", "nan in an object", "no plain value"],
)
def test_what_cannot_be_compared_counts_as_changed(answer):
    runs = Runs(Changing=changing(lambda x: answer))
    runs(CHANGING)
    assert runs(CHANGING) == ("1", "2")


def test_is_changed_sees_constants_and_none_for_links():
    seen = []
    runs = Runs(Changing=changing(lambda x: seen.append(x)))
    runs(
        {
            "0": node("Number", value=1),
            "1": node("Changing", x=["0", 0]),
            "2": node("Show", value=["1", 0]),
        }
    )
    assert seen == [None]


def test_is_changed_is_asked_once_a_run():
    seen = []
    runs = Runs(Changing=changing(lambda x: seen.append(x)))
    runs(
        {
            "1": node("Changing", x=1),
            "2": node("Show", value=["1", 0]),
            "3": node("Add", a=["1", 0]),
            "4": node("Show", value=["3", 0]),
        }
    )
    assert seen == [1]


def test_failing_is_changed_is_logged_and_the_node_runs(caplog):
    def explode(x):
        raise OSError("gone")

    runs = Runs(Changing=changing(explode))
    runs(CHANGING)
    assert runs(CHANGING) == ("1", "2")
    assert "node 1 (Changing): IS_CHANGED failed" in caplog.text


def test_only_the_last_prompt_is_kept():
    runs = Runs()
    runs(prompt_of(value=1))
    runs(prompt_of(value=2))
    assert runs(prompt_of(value=1)) == ("1", "2", "3")


def test_running_a_part_keeps_the_rest():
    runs = Runs()
    prompt = {"1": node("Show", value=1), "2": node("Show", value=2)}
    runs(prompt)
    runs(prompt, targets=["2"])
    assert runs(prompt) == ()


def test_what_ran_before_an_error_is_kept():
    broken = [True]

    def work(x):
        if broken[0]:
            raise ValueError("no")
        return (x,)

    runs = Runs(Work=fake_node(work, required={"x": INT}, returns=("INT",)))
    prompt = {
        "1": node("Number", value=1),
        "2": node("Work", x=["1", 0]),
        "3": node("Show", value=["2", 0]),
    }
    assert runs(prompt) == ("1",)
    broken[0] = False
    assert runs(prompt) == ("2", "3")


def test_clear_forgets():
    runs = Runs()
    runs(prompt_of())
    runs.executor.clear()
    assert runs(prompt_of()) == ("1", "2", "3")
