"""Links of cg-use-everywhere; the records are laid out as its version 7.8 writes them."""

from typing import Any

import pytest
from ui_canvas import Canvas
from ui_workflow import BASIC, basic, convert, notes


def sent(sender: str = "Anything Everywhere", **properties: Any) -> Canvas:
    """The basic workflow; what "Load" returns goes to "Encode" through a sender."""
    canvas = basic()
    first = canvas.links.pop(0)
    canvas.nodes[2]["inputs"][0]["link"] = None
    canvas.nodes[1]["outputs"][0]["links"].remove(first[0])
    canvas.add(10, sender, [], inputs="anything:CLIP", properties={"ue_properties": properties})
    canvas.link(1, 0, 10, "anything")
    canvas.links[-1][0] = canvas.nodes[10]["inputs"][0]["link"] = 77
    return canvas


def with_record(canvas: Canvas, *links: tuple[Any, int, Any, int]) -> dict[str, Any]:
    keys = ("upstream", "upstream_slot", "downstream", "downstream_slot")
    document = canvas.document()
    recorded = [dict(zip(keys, link, strict=True)) | {"controller": 10} for link in links]
    document["extra"]["ue_links"] = recorded
    return document


def test_recorded_links_count():
    document = with_record(sent(title_regex="Enc"), ("1", 0, 2, 0))
    assert convert(document) == BASIC


def test_empty_record_says_that_nothing_is_sent():
    assert "clip" not in convert(with_record(sent()))["2"]["inputs"]


def test_drawn_link_counts_more_than_a_recorded_one():
    canvas = basic()
    canvas.add(9, "Load", ["a.pt", 0], outputs="CLIP:CLIP info:STRING")
    assert convert(with_record(canvas, ("9", 0, 2, 0)))["2"]["inputs"]["clip"] == ["1", 0]


@pytest.mark.parametrize(
    "link", [("1", 0, 99, 0), ("1", 0, 2, 99), ("1", -1, 2, 0), ("1", 0, 2, -1), ("1", None, 2, 0)]
)
def test_recorded_link_to_nowhere_is_ignored(link):
    assert "clip" not in convert(with_record(sent(), link))["2"]["inputs"]


@pytest.mark.parametrize("sender", ["Anything Everywhere", "Anything Everywhere3"])
def test_without_a_record_every_free_input_of_the_type_is_linked(sender):
    canvas = sent(sender)
    assert convert(canvas) == BASIC
    assert notes(canvas) == ()


def test_without_a_record_widgets_are_not_linked():
    canvas = sent()
    canvas.nodes[10]["inputs"] = [{"name": "anything", "type": "STRING", "link": 78}]
    canvas.links[-1] = [78, 1, 1, 10, 0, "STRING"]
    canvas.nodes[2]["inputs"].append(
        {"name": "text", "type": "STRING", "link": None, "widget": {"name": "text"}}
    )
    assert convert(canvas)["2"]["inputs"] == {"text": "a cat", "strength": 0.5}


@pytest.mark.parametrize(
    "canvas", [sent(input_regex="clip"), sent("Prompts Everywhere")], ids=["restricted", "prompts"]
)
def test_without_a_record_restrictions_are_a_note(canvas):
    assert "clip" not in convert(canvas)["2"]["inputs"]
    (note,) = notes(canvas)
    assert note.startswith("node 10")
    assert "Convert all UEs to real links" in note


def test_without_a_record_two_senders_of_a_type_are_a_note():
    canvas = sent()
    canvas.add(11, "Anything Everywhere", [], inputs="anything:CLIP")
    canvas.link(1, 0, 11, "anything")
    assert "clip" not in convert(canvas)["2"]["inputs"]
    assert "2 senders of CLIP" in notes(canvas)[0]


@pytest.mark.parametrize("mode", [2, 4], ids=["muted", "bypassed"])
def test_without_a_record_switched_off_senders_send_nothing(mode):
    canvas = sent()
    canvas.nodes[10]["mode"] = mode
    assert "clip" not in convert(canvas)["2"]["inputs"]
