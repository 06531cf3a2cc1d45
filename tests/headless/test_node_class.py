import pytest
from fake_graph import INT, fake_node
from sd2_clip.headless.graph import Link, Node, Value
from sd2_clip.headless.node_class import NodeClass, NodeClasses
from sd2_clip.headless.workflow_errors import NodeContractError


def pairs(cls, **arguments):
    """What ``call`` hands to a function."""
    return NodeClass("Fake", cls).call(lambda **keywords: keywords, arguments)


def test_one_call_per_item_of_the_longest_list():
    assert pairs(fake_node(), a=[1, 2, 3], b=[10, 20]) == [
        {"a": 1, "b": 10},
        {"a": 2, "b": 20},
        {"a": 3, "b": 20},
    ]


def test_a_function_without_inputs_is_called_once():
    assert pairs(fake_node()) == [{}]


def test_input_is_list_is_one_call_with_the_lists():
    assert pairs(fake_node(INPUT_IS_LIST=True), a=[1, 2], b=[]) == [{"a": [1, 2], "b": []}]


def test_an_empty_list_names_its_input():
    with pytest.raises(NodeContractError, match="input 'b' received an empty list"):
        pairs(fake_node(), a=[1], b=[])


def test_a_coroutine_function_is_refused_by_name():
    async def later():
        return (1,)

    with pytest.raises(NodeContractError, match=r"Fake\.later is a coroutine function"):
        NodeClass("Fake", fake_node()).call(later, {})


def test_the_callback_comes_before_each_call():
    seen = []
    cls = NodeClass("Fake", fake_node())
    cls.call(lambda a: seen.append(a), {"a": [1, 2]}, before_call=lambda: seen.append("before"))
    assert seen == ["before", 1, "before", 2]


@pytest.mark.parametrize(
    ("declared", "choices"),
    [
        pytest.param((["a", "b"], {}), ["a", "b"], id="list as the type"),
        pytest.param(("COMBO", {"options": ["a"]}), ["a"], id="COMBO with options"),
        pytest.param(("COMBO", {}), None, id="COMBO that lists none"),
        pytest.param(("STRING", {"options": ["a"]}), None, id="no combo"),
    ],
)
def test_choices(declared, choices):
    assert NodeClass("Fake", fake_node(required={"x": declared})).spec("x").choices == choices


def test_a_declaration_that_cannot_be_read_names_class_and_input():
    with pytest.raises(NodeContractError, match=r"Fake\.INPUT_TYPES declares input 'x' as 'INT'"):
        NodeClass("Fake", fake_node(required={"x": "INT"})).spec("x")


def test_a_function_that_does_not_exist_is_named():
    with pytest.raises(NodeContractError, match=r"Fake\.FUNCTION names no method: 'go'"):
        _ = NodeClass("Fake", fake_node(FUNCTION="go")).function


def test_undeclared_values_are_dropped_and_links_kept_where_the_function_takes_them():
    cls = NodeClass("Fake", fake_node(lambda a, extra: (), required={"a": INT}))
    inputs = {"a": Value(1), "extra": Link("9", 0), "other": Link("9", 0), "text": Value("x")}
    node, dropped = cls.strip(Node("1", "Fake", inputs))
    assert (list(node.inputs), dropped) == (["a", "extra"], ["other", "text"])


@pytest.mark.parametrize(
    ("misspelt", "found"),
    [("EncodeSD2Txt", "EncodeSD2Text"), ("KSampler", None)],
)
def test_similar_class(misspelt, found):
    assert NodeClasses({"EncodeSD2Text": object, "LoadSD2CLIP": object}).like(misspelt) == found


def test_title_is_the_nodes_own_then_its_classs_then_the_class_name():
    classes = NodeClasses({"Fake": fake_node(TITLE="A Fake")})
    assert classes.title(Node("1", "Fake", {}, "Mine")) == "Mine"
    assert classes.title(Node("1", "Fake", {})) == "A Fake"
    assert classes.title(Node("1", "Gone", {})) == "Gone"
    assert classes.title(Node("1", None, {})) == "no class_type"
