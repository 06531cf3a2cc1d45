import math

import pytest
from fake_graph import INT, NODES, fake_node, node, only_problem, validated


def check_input(spec, received, **attributes):
    """The error type for one input of an output node, or None; and the value to run with."""
    classes = {"Out": fake_node(required={"x": spec}, OUTPUT_NODE=True, **attributes)}
    validation = validated({"1": node("Out", x=received)}, classes)
    if validation.ok:
        return None, validation.graph["1"].inputs["x"].value
    return only_problem(validation, "1").kind, None


@pytest.mark.parametrize(
    ("spec", "received", "expected"),
    [
        pytest.param(("INT", {}), "5", 5, id="text to INT"),
        pytest.param(("INT", {}), 5.9, 5, id="float to INT is cut"),
        pytest.param(("FLOAT", {}), 1, 1.0, id="int to FLOAT"),
        pytest.param(("STRING", {}), 7, "7", id="number to STRING"),
        pytest.param(("BOOLEAN", {}), 0, False, id="number to BOOLEAN"),
        pytest.param(("BOOLEAN", {}), "false", False, id="the word false"),
        pytest.param(("BOOLEAN", {}), "True", True, id="the word true"),
        pytest.param((["a", "b"], {}), "b", "b", id="combo"),
        pytest.param(("COMBO", {"options": ["a", "b"]}), "b", "b", id="combo in the new spelling"),
        pytest.param((["x/a.pt"], {}), "x\\a.pt", "x/a.pt", id="file saved on Windows"),
        pytest.param((["x\\a.pt"], {}), "x/a.pt", "x\\a.pt", id="file saved elsewhere"),
        pytest.param(("COMBO", {"remote": {"route": "/x"}}), "z", "z", id="combo filled remotely"),
        pytest.param(
            (["a", "b"], {"multi_select": True}),
            {"__value__": ["b"]},
            ["b"],
            id="several of a combo",
        ),
        pytest.param(("LATENT", {}), {"k": 1}, {"k": 1}, id="constant of another type"),
    ],
)
def test_value_is_coerced(spec, received, expected):
    error, value = check_input(spec, received)
    assert error is None
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("spec", "received", "error_type"),
    [
        pytest.param(("INT", {}), "five", "invalid_input_type", id="no INT"),
        pytest.param(("INT", {}), math.inf, "invalid_input_type", id="infinite INT"),
        pytest.param(("FLOAT", {}), None, "invalid_input_type", id="null FLOAT"),
        pytest.param(("BOOLEAN", {}), "maybe", "invalid_input_type", id="no BOOLEAN"),
        pytest.param(("INT", {"min": 1}), 0, "value_smaller_than_min", id="below min"),
        pytest.param(("INT", {"max": 1}), 2, "value_bigger_than_max", id="above max"),
        pytest.param(
            ("FLOAT", {"min": 0}), math.nan, "value_smaller_than_min", id="nan has no place"
        ),
        pytest.param((["a"], {}), "b", "value_not_in_list", id="combo"),
        pytest.param(("COMBO", {"options": ["a"]}), "b", "value_not_in_list", id="new combo"),
        pytest.param(([], {}), "b", "value_not_in_list", id="combo without choices"),
        pytest.param(INT, [1, 2, 3], "bad_linked_input", id="bare list"),
        pytest.param(INT, ["9", 0], "bad_linked_input", id="link to nowhere"),
    ],
)
def test_bad_value_has_comfyui_error_type(spec, received, error_type):
    assert check_input(spec, received)[0] == error_type


def test_long_lists_of_choices_are_not_repeated():
    classes = {"Out": fake_node(required={"x": ([f"f{i}" for i in range(99)],)}, OUTPUT_NODE=True)}
    problem = only_problem(validated({"1": node("Out", x="g")}, classes), "1")
    assert problem.details == "x: 'g' not in (list of length 99)"


def test_required_input_missing():
    problem = only_problem(validated({"1": node("Show")}, NODES), "1")
    assert problem.kind == "required_input_missing"
    assert problem.input_name == "value"


@pytest.mark.parametrize(
    ("gives", "takes", "fits"),
    [
        ("CLIP", "CLIP", True),
        ("CLIP", "MODEL", False),
        ("*", "CLIP", True),
        ("CLIP", "*", True),
        ("CLIP,MODEL", "MODEL,VAE", True),
        ("CLIP, MODEL", "MODEL", True),
        ("CLIP", "MODEL,VAE", False),
        (["a"], "COMBO", True),
        (["a"], ["a"], True),
        (["a"], ["b"], False),
        ("CLIP", ["a"], False),
    ],
)
def test_types_of_links(gives, takes, fits):
    classes = {
        "Give": fake_node(returns=(gives,)),
        "Take": fake_node(required={"x": (takes, {})}, OUTPUT_NODE=True),
    }
    validation = validated({"1": node("Give"), "2": node("Take", x=["1", 0])}, classes)
    assert validation.ok is fits
    if not fits:
        assert only_problem(validation, "2").kind == "return_type_mismatch"


def test_type_that_equals_everything_fits():
    class AnyType(str):
        __hash__ = str.__hash__

        def __ne__(self, other):
            return False

    classes = {
        "Give": fake_node(returns=("CLIP",)),
        "Take": fake_node(required={"x": (AnyType("anything"), {})}, OUTPUT_NODE=True),
    }
    assert validated({"1": node("Give"), "2": node("Take", x=["1", 0])}, classes).ok


@pytest.mark.parametrize("slot", [1, -1])
def test_link_to_a_missing_output_names_it(slot):
    prompt = {"1": node("Number", value=1), "2": node("Show", value=["1", slot])}
    problem = only_problem(validated(prompt), "2")
    assert problem.kind == "bad_linked_input"
    assert problem.details.startswith(f"value: node 1 (Number) has no output {slot}")


def test_link_with_a_numeric_id_says_how_to_write_it():
    prompt = {"1": node("Number", value=1), "2": node("Show", value=[1, 0])}
    assert "['1', 0]" in only_problem(validated(prompt), "2").details
