import pytest
from fake_graph import INT, NODES, class_function, fake_node, node, only_problem, validated


def test_optional_input_may_be_missing():
    prompt = {"1": node("Add", a=1), "2": node("Show", value=["1", 0])}
    assert validated(prompt).ok


def test_optional_input_is_checked_when_given():
    prompt = {"1": node("Add", a=1, b="x"), "2": node("Show", value=["1", 0])}
    assert only_problem(validated(prompt), "1").kind == "invalid_input_type"


def test_link_to_a_missing_node_names_input_and_node():
    problem = only_problem(validated({"2": node("Show", value=["9", 0])}, NODES), "2")
    assert problem.details == "value: node 9 is not in the workflow"
    assert problem.input_name == "value"


def custom(function, **specs):
    return {
        **NODES,
        "Out": fake_node(
            required=specs, OUTPUT_NODE=True, VALIDATE_INPUTS=class_function(function)
        ),
    }


@pytest.mark.parametrize(
    ("answer", "details"),
    [("no such file", "x - no such file"), (False, "x"), (True, None)],
)
def test_validate_inputs_answers(answer, details):
    validation = validated({"1": node("Out", x=1)}, custom(lambda x: answer, x=INT))
    if details is None:
        assert validation.ok
    else:
        problem = only_problem(validation, "1")
        assert (problem.kind, problem.details) == ("custom_validation_failed", details)
        assert problem.input_name == "x"


def test_validate_inputs_sees_links_as_none():
    seen = []

    def look(x, y):
        seen.append((x, y))
        return True

    prompt = {"1": node("Number", value=1), "2": node("Out", x=["1", 0], y=4)}
    validated(prompt, custom(look, x=INT, y=INT))
    assert seen == [(None, 4)]


@pytest.mark.parametrize(
    ("function", "ok"),
    [
        pytest.param(lambda x: True, True, id="named input"),
        pytest.param(lambda **inputs: True, True, id="any input"),
        pytest.param(lambda y: True, False, id="another input"),
    ],
)
def test_validate_inputs_takes_over_the_checks_of_the_inputs_it_names(function, ok):
    classes = custom(function, x=("INT", {"max": 1}), y=INT)
    assert validated({"1": node("Out", x=5, y=0)}, classes).ok is ok


def test_validate_inputs_may_judge_types():
    seen = []

    def look(input_types):
        seen.append(input_types)
        return True

    classes = custom(look, x=("MODEL", {}))
    assert validated({"1": node("Number", value=1), "2": node("Out", x=["1", 0])}, classes).ok
    assert seen == [{"x": "INT"}]


def test_validate_inputs_blames_the_input_whose_value_it_mentions():
    classes = custom(
        lambda name, device: "device tpu is unknown", name=("STRING", {}), device=("STRING", {})
    )
    problem = only_problem(validated({"1": node("Out", name="a.pt", device="tpu")}, classes), "1")
    assert problem.input_name == "device"


def test_exception_of_validate_inputs_belongs_to_its_node():
    def explode(x):
        raise RuntimeError("boom")

    classes = custom(explode, x=INT)
    problem = only_problem(validated({"1": node("Out", x=1)}, classes), "1")
    assert (problem.kind, problem.details) == (
        "exception_during_validation",
        "RuntimeError: boom",
    )
