import pytest
from sd2_clip.headless.editor_format.document import read_ui_document
from sd2_clip.headless.workflow_errors import WorkflowError
from ui_workflow import BASIC, basic, convert


@pytest.mark.parametrize("version", [0.4, 1])
def test_both_schemas(version):
    assert convert(basic(), version) == BASIC


def test_ids_may_be_texts():
    document = basic().document()
    for node in document["nodes"]:
        node["id"] = str(node["id"])
    assert convert(document) == BASIC


def test_links_may_be_an_object_by_id():
    document = basic().document(1)
    document["links"] = {str(link["id"]): link for link in document["links"]}
    assert convert(document) == BASIC


def test_empty_entries_of_links_are_skipped():
    document = basic().document()
    document["links"].insert(0, None)
    assert convert(document) == BASIC


def test_socket_of_a_combo_may_list_its_choices():
    document = {"nodes": [{"id": 1, "type": "A", "inputs": [{"name": "m", "type": ["a", "b"]}]}]}
    assert read_ui_document(document).root.nodes["1"].inputs[0].type == "COMBO"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param({"nodes": [5]}, "no id or no type", id="node is a number"),
        pytest.param({"nodes": [{"id": 1}]}, "no id or no type", id="node without type"),
        pytest.param(
            {"nodes": [{"id": 1, "type": "A"}] * 2}, "two nodes have this id", id="two ids"
        ),
        pytest.param({"links": [[1, 2, 0]]}, "link cannot be read", id="short link"),
        pytest.param({"links": [[1, 2, "x", 3, 0, "*"]]}, "link cannot be read", id="slot is text"),
    ],
)
def test_damage_is_named(damage, words):
    with pytest.raises(WorkflowError, match=words):
        convert({"nodes": [], "links": [], **damage})
