import pytest
from fake_graph import node
from sd2_clip.headless.graph import BadLink, Link, Value, parse_prompt, unwrap_prompt
from sd2_clip.headless.workflow_errors import WorkflowError


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        pytest.param(["6", 0], Link("6", 0), id="link"),
        pytest.param(["6", 1.0], Link("6", 1), id="slot as a whole float"),
        pytest.param(["3:6", 0], Link("3:6", 0), id="id inside a subgraph"),
        pytest.param("a cat", Value("a cat"), id="text"),
        pytest.param(None, Value(None), id="null"),
        pytest.param({"__value__": ["6", 0]}, Value(["6", 0]), id="wrapped list is no link"),
        pytest.param({"a": 1}, Value({"a": 1}), id="object"),
        pytest.param([1, 2, 3], BadLink([1, 2, 3]), id="bare list"),
        pytest.param([6, 0], BadLink([6, 0]), id="id as a number"),
        pytest.param(["6", True], BadLink(["6", True]), id="slot as a boolean"),
        pytest.param(["6", 0.5], BadLink(["6", 0.5]), id="slot as a fraction"),
        pytest.param([], BadLink([]), id="empty list"),
    ],
)
def test_input_is_link_or_value(received, expected):
    graph = parse_prompt({"1": node("Any", x=received)})
    assert graph["1"].inputs["x"] == expected


def test_prompt_may_be_wrapped():
    assert unwrap_prompt({"prompt": {"7": node("Any")}, "client_id": "c"}) == {"7": node("Any")}


def test_node_may_have_the_id_prompt():
    assert unwrap_prompt({"prompt": node("Any")}) == {"prompt": node("Any")}


def test_title_comes_from_meta():
    assert parse_prompt({"1": node("Any", title="Mine")})["1"].title == "Mine"


def test_inputs_may_be_absent():
    assert parse_prompt({"1": {"class_type": "Any"}})["1"].inputs == {}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        pytest.param([], "found list", id="a list"),
        pytest.param({"nodes": [], "links": []}, "editor", id="UI format"),
        pytest.param({"5": 3}, "node 5", id="node is a number"),
        pytest.param({"5": {"inputs": 3}}, "node 5", id="inputs is a number"),
        pytest.param({"5": {"class_type": 3}}, "node 5", id="class is a number"),
    ],
)
def test_what_is_not_a_prompt_is_named(document, words):
    with pytest.raises(WorkflowError, match=words):
        parse_prompt(unwrap_prompt(document))


@pytest.mark.parametrize(
    "prompt",
    [
        {"x" * 1_001: {"class_type": "A"}},
        {"1": {"class_type": "x" * 1_001}},
        {"1": {"class_type": "A", "inputs": {"x" * 1_001: 1}}},
    ],
    ids=["node", "class", "input"],
)
def test_names_too_long_to_be_quoted_are_refused(prompt):
    with pytest.raises(WorkflowError, match="a name of 1,001 characters; at most 1,000 are read"):
        parse_prompt(prompt)
