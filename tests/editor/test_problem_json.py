"""Problems in the shape that clients of ComfyUI's API read."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_graph import NODES, class_function, fake_node, node, validated
from sd2_clip.editor.problem_json import refusal_json

LONG = [f"f{i}" for i in range(99)]


def explode(**inputs: Any) -> None:
    raise OSError("no folder")


CLASSES: dict[str, type] = {
    **NODES,
    "Out": fake_node(required={"x": ("INT", {"min": 3})}, OUTPUT_NODE=True),
    "Pick": fake_node(required={"x": (["a", "b"], {})}, OUTPUT_NODE=True),
    "Long": fake_node(required={"x": (LONG,)}, OUTPUT_NODE=True),
    "Text": fake_node(required={"x": ("STRING", {})}, returns=("STRING",)),
    "Refuse": fake_node(
        required={"x": ("INT", {})},
        OUTPUT_NODE=True,
        VALIDATE_INPUTS=class_function(lambda x: "no such file"),
    ),
    "Explode": fake_node(
        required={"x": ("INT", {})}, OUTPUT_NODE=True, VALIDATE_INPUTS=class_function(explode)
    ),
}


def refused(prompt: Any) -> dict[str, Any]:
    return refusal_json(validated(prompt, CLASSES))


def test_answer_to_a_prompt_with_one_bad_value() -> None:
    assert refused({"1": node("Out", x=1, title="Mine")}) == {
        "error": {
            "type": "prompt_outputs_failed_validation",
            "message": "Prompt outputs failed validation",
            "details": "Value 1 smaller than min of 3: x",
            "extra_info": {},
        },
        "node_errors": {
            "1": {
                "errors": [
                    {
                        "type": "value_smaller_than_min",
                        "message": "Value 1 smaller than min of 3",
                        "details": "x",
                        "extra_info": {
                            "input_name": "x",
                            "input_config": ["INT", {"min": 3}],
                            "received_value": 1,
                        },
                    }
                ],
                "dependent_outputs": ["1"],
                "class_type": "Out",
                "title": "Mine",
            }
        },
    }


@pytest.mark.parametrize(
    ("prompt", "extra_info"),
    [
        pytest.param({"1": node("Out")}, {"input_name": "x"}, id="required_input_missing"),
        pytest.param(
            {"1": node("Out", x=[1, 2, 3])},
            {
                "input_name": "x",
                "input_config": ["INT", {"min": 3}],
                "received_value": [1, 2, 3],
            },
            id="bad_linked_input",
        ),
        pytest.param(
            {"1": node("Out", x=["9", 0])},
            {"input_name": "x", "received_value": ["9", 0]},
            id="bad_linked_input to nowhere",
        ),
        pytest.param(
            {"1": node("Out", x=["2", 0]), "2": node("Text", x="a")},
            {
                "input_name": "x",
                "input_config": ["INT", {"min": 3}],
                "received_type": "STRING",
                "linked_node": ["2", 0],
            },
            id="return_type_mismatch",
        ),
        pytest.param(
            {"1": node("Out", x="five")},
            {
                "input_name": "x",
                "input_config": ["INT", {"min": 3}],
                "received_value": "five",
                "exception_message": "invalid literal for int() with base 10: 'five'",
            },
            id="invalid_input_type",
        ),
        pytest.param(
            {"1": node("Pick", x="c")},
            {"input_name": "x", "input_config": [["a", "b"], {}], "received_value": "c"},
            id="value_not_in_list",
        ),
        pytest.param(
            {"1": node("Long", x="c")},
            {"input_name": "x", "input_config": None, "received_value": "c"},
            id="value_not_in_list of many",
        ),
        pytest.param(
            {"1": node("Refuse", x=1)}, {"input_name": "x"}, id="custom_validation_failed"
        ),
        pytest.param(
            {"1": node("Add", a=["1", 0]), "2": node("Show", value=["1", 0])},
            {"node_id": "1", "input_name": "a", "cycle_nodes": ["1"]},
            id="dependency_cycle",
        ),
        pytest.param(
            {"1": node("Gone", title="Mine"), "2": node("Show", value=["1", 0])},
            {"node_id": "1", "class_type": "Gone", "node_title": "Mine"},
            id="missing_node_type",
        ),
    ],
)
def test_extra_info(prompt: Any, extra_info: dict[str, Any], request: Any) -> None:
    [error] = refused(prompt)["node_errors"]["1"]["errors"]
    assert error["type"] == request.node.callspec.id.split()[0]
    assert error["extra_info"] == extra_info


def test_exception_comes_with_its_traceback() -> None:
    [error] = refused({"1": node("Explode", x=1)})["node_errors"]["1"]["errors"]
    assert error["type"] == "exception_during_validation"
    extra_info = error["extra_info"]
    assert "explode" in "".join(extra_info.pop("traceback"))
    assert extra_info == {"exception_type": "OSError", "exception_message": "no folder"}


def test_class_that_is_not_installed_is_the_error_of_the_prompt() -> None:
    answer = refused({"1": node("Gone"), "2": node("Show", value=["1", 0])})
    assert answer["error"] == answer["node_errors"]["1"]["errors"][0]


def test_several_classes_that_are_not_installed_are_counted() -> None:
    prompt = {"1": node("Gone"), "2": node("Away"), "3": node("Add", a=["1", 0], b=["2", 0])}
    answer = refused({**prompt, "4": node("Show", value=["3", 0])})
    assert answer["error"] == {
        "type": "missing_node_type",
        "message": "2 nodes are of classes that are not installed",
        "details": "1 (Gone), 2 (Away)",
        "extra_info": {"node_id": "1", "class_type": "Gone", "node_title": "Gone"},
    }


def test_prompt_without_outputs() -> None:
    assert refused({"1": node("Number", value=1)}) == {
        "error": {
            "type": "prompt_no_outputs",
            "message": "Prompt has no outputs",
            "details": "",
            "extra_info": {},
        },
        "node_errors": {},
    }
