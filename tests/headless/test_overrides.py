import pytest
from fake_graph import NODES, fake_node, node
from sd2_clip.headless.graph import parse_prompt
from sd2_clip.headless.overrides import apply_overrides
from sd2_clip.headless.workflow import read_prompt
from sd2_clip.headless.workflow_errors import WorkflowError

CLASSES = {
    **NODES,
    "Encode": fake_node(
        required={"text": ("STRING", {}), "layer": (["last", "1"], {})},
        optional={"strength": ("FLOAT", {}), "sizes": ("*", {}), "a.b": ("INT", {})},
        hidden={"unique_id": "UNIQUE_ID"},
        TITLE="Encode Text",
    ),
}

PROMPT = {
    "3": node("Number", value=1),
    "5:6": node("Encode", text="a dog", layer="last", title="Positive v1.0"),
    "7": node("Encode", text="", layer="last", title="Negative"),
    "8": node("Fancy", knob=1),
}


def overridden(*overrides):
    return apply_overrides(read_prompt(PROMPT, CLASSES), overrides)


def changed(override):
    """The inputs that differ after an override, as (node, input, value)."""
    after = overridden(override).prompt
    return [
        (key, name, value)
        for key in after
        for name, value in after[key]["inputs"].items()
        if PROMPT[key]["inputs"].get(name, ...) != value
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param("3.value=5", ("3", "value", 5), id="by id"),
        pytest.param("5:6.text=a cat", ("5:6", "text", "a cat"), id="by id inside a subgraph"),
        pytest.param("Negative.text=bad", ("7", "text", "bad"), id="by title"),
        pytest.param("positive V1.0.text=x", ("5:6", "text", "x"), id="by title with a dot"),
        pytest.param("Number.value=5", ("3", "value", 5), id="by class"),
        pytest.param("A Number.value=5", ("3", "value", 5), id="by title of the class"),
        pytest.param("7.a.b=5", ("7", "a.b", 5), id="input with a dot"),
        pytest.param("8.knob=2", ("8", "knob", 2), id="class that is not there"),
        pytest.param("7.text=a=b", ("7", "text", "a=b"), id="text with an equals sign"),
        pytest.param("7.text=12", ("7", "text", "12"), id="text that looks like a number"),
        pytest.param("7.text=true", ("7", "text", "true"), id="text that looks like a boolean"),
        pytest.param("7.layer=1", ("7", "layer", "1"), id="choice that looks like a number"),
        pytest.param("7.strength=0.5", ("7", "strength", 0.5), id="number"),
        pytest.param("7.strength=x", ("7", "strength", "x"), id="no JSON is text"),
        pytest.param(
            "7.strength=" + "[" * 9999, ("7", "strength", "[" * 9999), id="nested too deeply"
        ),
        pytest.param('7.sizes=["3", 0]', ("7", "sizes", ["3", 0]), id="link"),
        pytest.param("7.sizes=[1, 2]", ("7", "sizes", {"__value__": [1, 2]}), id="list of values"),
    ],
)
def test_override_changes_one_input(override, expected):
    assert changed(override) == [expected]


def test_prompt_itself_is_not_changed():
    overridden("3.value=9")
    assert PROMPT["3"]["inputs"]["value"] == 1


def test_later_override_wins():
    assert overridden("3.value=1", "3.value=2").prompt["3"]["inputs"]["value"] == 2


def test_graph_is_that_of_the_changed_prompt():
    changes = ('7.sizes=["3", 0]', "7.strength=0.5", "3.value=[1]", "7.text=x")
    workflow = overridden(*changes)
    assert workflow.graph == parse_prompt(workflow.prompt)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        pytest.param("nonsense", "NODE.INPUT=VALUE", id="no equals sign"),
        pytest.param("3=5", "NODE.INPUT=VALUE", id="no input"),
        pytest.param("9.value=5", r"3: A Number \(Number\)", id="no such node lists the nodes"),
        pytest.param("Encode.text=x", "5:6, 7", id="several nodes lists their ids"),
        pytest.param("3.size=5", "Its inputs are: value", id="no such input lists the inputs"),
        pytest.param("7.unique_id=5", "no input 'unique_id'", id="hidden input"),
        pytest.param("8.wheel=5", "Its inputs are: knob", id="no such input of an absent class"),
    ],
)
def test_what_cannot_be_overridden_is_explained(override, words):
    with pytest.raises(WorkflowError, match=words):
        overridden(override)
