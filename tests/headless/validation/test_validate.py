import math

import pytest
from fake_graph import INT, NODES, SHOW, class_function, fake_node, node
from sd2_clip.headless.validation.validate import validate


def only_error(validation, node_id):
    (error,) = validation.node_errors[node_id]["errors"]
    return error


def check_input(spec, received, **attributes):
    """The error type for one input of an output node, or None; and the value to run with."""
    classes = {"Out": fake_node(required={"x": spec}, OUTPUT_NODE=True, **attributes)}
    validation = validate({"1": node("Out", x=received)}, classes)
    if validation.ok:
        return None, validation.graph["1"].inputs["x"].value
    return only_error(validation, "1")["type"], None


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


def test_error_object_has_comfyui_shape():
    classes = {"Out": fake_node(required={"x": ("INT", {"min": 3})}, OUTPUT_NODE=True)}
    validation = validate({"1": node("Out", x=1)}, classes)
    assert validation.node_errors["1"] == {
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
        "title": "Out",
    }
    assert validation.error["type"] == "prompt_outputs_failed_validation"


def test_long_lists_of_choices_are_not_repeated():
    classes = {"Out": fake_node(required={"x": ([f"f{i}" for i in range(99)],)}, OUTPUT_NODE=True)}
    error = only_error(validate({"1": node("Out", x="g")}, classes), "1")
    assert error["details"] == "x: 'g' not in (list of length 99)"
    assert error["extra_info"]["input_config"] is None


def test_required_input_missing():
    error = only_error(validate({"1": node("Show")}, NODES), "1")
    assert error["type"] == "required_input_missing"
    assert error["extra_info"] == {"input_name": "value"}


def test_optional_input_may_be_missing():
    prompt = {"1": node("Add", a=1), "2": node("Show", value=["1", 0])}
    assert validate(prompt, NODES).ok


def test_optional_input_is_checked_when_given():
    prompt = {"1": node("Add", a=1, b="x"), "2": node("Show", value=["1", 0])}
    assert only_error(validate(prompt, NODES), "1")["type"] == "invalid_input_type"


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
    validation = validate({"1": node("Give"), "2": node("Take", x=["1", 0])}, classes)
    assert validation.ok is fits
    if not fits:
        assert only_error(validation, "2")["type"] == "return_type_mismatch"


def test_type_that_equals_everything_fits():
    class AnyType(str):
        __hash__ = str.__hash__

        def __ne__(self, other):
            return False

    classes = {
        "Give": fake_node(returns=("CLIP",)),
        "Take": fake_node(required={"x": (AnyType("anything"), {})}, OUTPUT_NODE=True),
    }
    assert validate({"1": node("Give"), "2": node("Take", x=["1", 0])}, classes).ok


def test_link_to_a_missing_node_names_input_and_node():
    error = only_error(validate({"2": node("Show", value=["9", 0])}, NODES), "2")
    assert error["details"] == "value: node 9 is not in the workflow"
    assert error["extra_info"]["input_name"] == "value"


@pytest.mark.parametrize("slot", [1, -1])
def test_link_to_a_missing_output_names_it(slot):
    prompt = {"1": node("Number", value=1), "2": node("Show", value=["1", slot])}
    error = only_error(validate(prompt, NODES), "2")
    assert error["type"] == "bad_linked_input"
    assert error["details"].startswith(f"value: node 1 (Number) has no output {slot}")


def test_link_with_a_numeric_id_says_how_to_write_it():
    prompt = {"1": node("Number", value=1), "2": node("Show", value=[1, 0])}
    assert "['1', 0]" in only_error(validate(prompt, NODES), "2")["details"]


def test_cycle_names_every_node_and_input_of_it():
    prompt = {
        "1": node("Add", a=["3", 0], title="First"),
        "2": node("Add", a=["1", 0]),
        "3": node("Add", a=["2", 0]),
        "4": node("Show", value=["3", 0]),
    }
    validation = validate(prompt, NODES)
    assert not validation.ok
    assert sorted(validation.node_errors) == ["1", "2", "3"]
    error = only_error(validation, "1")
    assert error["type"] == "dependency_cycle"
    assert error["extra_info"]["input_name"] == "a"
    assert "3 (Add) -> 2 (Add) -> 1 (First) -> 3 (Add)" in error["details"] or (
        "1 (First) -> 3 (Add) -> 2 (Add) -> 1 (First)" in error["details"]
    )


def test_node_that_feeds_itself_is_a_cycle():
    prompt = {"1": node("Add", a=["1", 0]), "2": node("Show", value=["1", 0])}
    assert only_error(validate(prompt, NODES), "1")["type"] == "dependency_cycle"


def test_outputs_beside_a_cycle_can_run():
    prompt = {
        "1": node("Add", a=["1", 0]),
        "2": node("Show", value=["1", 0]),
        "3": node("Show", value=5),
    }
    validation = validate(prompt, NODES)
    assert validation.outputs == ("3",)
    assert validation.node_errors["1"]["dependent_outputs"] == ["2"]


def test_good_outputs_of_a_partly_bad_prompt_can_run():
    prompt = {
        "1": node("Number", value="x"),
        "2": node("Show", value=["1", 0]),
        "3": node("Number", value=3),
        "4": node("Show", value=["3", 0]),
    }
    validation = validate(prompt, NODES)
    assert (validation.ok, validation.outputs, list(validation.graph)) == (True, ("4",), ["3", "4"])
    assert list(validation.node_errors) == ["1"]


def test_missing_class_is_named_with_id_and_title():
    prompt = {"5": node("Fancy", title="My Fancy"), "6": node("Show", value=["5", 0])}
    validation = validate(prompt, NODES)
    assert validation.error["type"] == "missing_node_type"
    assert validation.error["extra_info"] == {
        "node_id": "5",
        "class_type": "Fancy",
        "node_title": "My Fancy",
    }
    assert validation.lines() == [
        "node 5 (My Fancy): Node class 'Fancy' ('My Fancy') is not installed: Node ID '#5'"
    ]


def test_what_does_not_depend_on_a_missing_class_can_run():
    prompt = {
        "5": node("Fancy"),
        "6": node("Show", value=["5", 0]),
        "7": node("Show", value=1),
    }
    validation = validate(prompt, NODES)
    assert validation.outputs == ("7",)
    assert validation.node_errors["5"]["dependent_outputs"] == ["6"]


def test_missing_class_that_nothing_needs_is_still_named():
    validation = validate({"5": node("Fancy"), "7": node("Show", value=1)}, NODES)
    assert validation.ok
    assert only_error(validation, "5")["type"] == "missing_node_type"


def test_node_without_class_type_is_named():
    validation = validate({"5": {"inputs": {}}}, NODES)
    assert validation.error["type"] == "missing_node_type"
    assert "'5'" in validation.error["message"]


def test_prompt_without_outputs():
    assert validate({"1": node("Number", value=1)}, NODES).error["type"] == "prompt_no_outputs"


def test_only_targets_are_checked():
    prompt = {"1": node("Show"), "2": node("Show", value=1)}
    validation = validate(prompt, NODES, targets=["2"])
    assert (validation.outputs, validation.node_errors) == (("2",), {})


@pytest.mark.parametrize("document", [[], {"1": 5}, {"nodes": []}], ids=["list", "node", "UI"])
def test_what_is_no_prompt_is_invalid_prompt(document):
    validation = validate(document, NODES)
    assert (validation.ok, validation.error["type"]) == (False, "invalid_prompt")


def test_exception_of_input_types_belongs_to_its_node():
    def explode(cls):
        raise OSError("no folder")

    broken = type("Broken", (), {"INPUT_TYPES": classmethod(explode), "OUTPUT_NODE": True})
    validation = validate(
        {"1": node("Broken"), "2": node("Show", value=1)}, {**NODES, "Broken": broken}
    )
    assert validation.outputs == ("2",)
    error = only_error(validation, "1")
    assert error["type"] == "exception_during_validation"
    assert error["details"] == "OSError: no folder"


def test_input_types_is_asked_once_a_prompt():
    asked = []

    def count(cls):
        asked.append(cls)
        return {"required": {"value": ("*", {})}}

    show = type("Counting", (SHOW,), {"INPUT_TYPES": classmethod(count)})
    validate({str(i): node("Show", value=i) for i in range(9)}, {"Show": show})
    assert len(asked) == 1


def test_declared_dict_that_claims_every_name_is_asked_by_name():
    class Everything(dict):
        def __contains__(self, name):
            return True

        def __getitem__(self, name):
            return ("INT", {})

    classes = {
        **NODES,
        "Sum": fake_node(
            lambda **numbers: (sum(numbers.values()),), optional=Everything(), OUTPUT_NODE=True
        ),
    }
    validation = validate({"1": node("Number", value=2), "2": node("Sum", n7=["1", 0])}, classes)
    assert list(validation.graph["2"].inputs) == ["n7"]


@pytest.mark.parametrize("received", [7, ["1", 0]], ids=["value", "link"])
def test_input_that_the_class_does_not_have_is_ignored_and_noted(received):
    prompt = {"1": node("Number", value=1), "2": node("Show", value=1, extra=received)}
    validation = validate(prompt, NODES)
    assert list(validation.graph["2"].inputs) == ["value"]
    assert validation.notes == ("node 2 (Show): Show has no input 'extra'; ignored",)


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
    validation = validate({"1": node("Out", x=1)}, custom(lambda x: answer, x=INT))
    if details is None:
        assert validation.ok
    else:
        error = only_error(validation, "1")
        assert (error["type"], error["details"]) == ("custom_validation_failed", details)
        assert error["extra_info"] == {"input_name": "x"}


def test_validate_inputs_sees_links_as_none():
    seen = []

    def look(x, y):
        seen.append((x, y))
        return True

    prompt = {"1": node("Number", value=1), "2": node("Out", x=["1", 0], y=4)}
    validate(prompt, custom(look, x=INT, y=INT))
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
    assert validate({"1": node("Out", x=5, y=0)}, classes).ok is ok


def test_validate_inputs_may_judge_types():
    seen = []

    def look(input_types):
        seen.append(input_types)
        return True

    classes = custom(look, x=("MODEL", {}))
    assert validate({"1": node("Number", value=1), "2": node("Out", x=["1", 0])}, classes).ok
    assert seen == [{"x": "INT"}]


def test_validate_inputs_may_be_async():
    async def look(x):
        return "later"

    error = only_error(validate({"1": node("Out", x=1)}, custom(look, x=INT)), "1")
    assert error["details"] == "x - later"


def test_validate_inputs_blames_the_input_whose_value_it_mentions():
    classes = custom(
        lambda name, device: "device tpu is unknown", name=("STRING", {}), device=("STRING", {})
    )
    error = only_error(validate({"1": node("Out", name="a.pt", device="tpu")}, classes), "1")
    assert error["extra_info"] == {"input_name": "device"}


def test_exception_of_validate_inputs_belongs_to_its_node():
    def explode(x):
        raise RuntimeError("boom")

    classes = custom(explode, x=INT)
    error = only_error(validate({"1": node("Out", x=1)}, classes), "1")
    assert (error["type"], error["details"]) == (
        "exception_during_validation",
        "RuntimeError: boom",
    )


def test_exception_of_an_inner_node_has_its_own_type():
    def explode(value):
        raise RuntimeError("boom")

    inner = fake_node(
        required={"value": INT}, returns=("INT",), VALIDATE_INPUTS=class_function(explode)
    )
    prompt = {"1": node("Inner", value=1), "2": node("Show", value=["1", 0])}
    validation = validate(prompt, {**NODES, "Inner": inner})
    assert only_error(validation, "1")["type"] == "exception_during_inner_validation"
