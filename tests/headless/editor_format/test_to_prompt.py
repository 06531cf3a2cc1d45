import json

import hostile_costs
import pytest
from fake_graph import fake_node
from sd2_clip.headless.editor_format import to_prompt
from sd2_clip.headless.editor_format.to_prompt import workflow_to_prompt
from sd2_clip.headless.node_class import NodeClasses
from sd2_clip.headless.workflow_errors import WorkflowError
from ui_canvas import Canvas
from ui_workflow import BASIC, CLASSES, basic, convert, inputs, notes


def test_list_value_is_wrapped():
    canvas = Canvas()
    canvas.add(1, "Lists", [[1, 2]])
    assert inputs(canvas, "1") == {"sizes": {"__value__": [1, 2]}}


def test_link_replaces_the_value_of_a_converted_widget():
    canvas = basic()
    canvas.add(4, "Encode", ["own", 1], inputs="clip:CLIP text!:STRING", outputs="COND:COND")
    canvas.link(1, 1, 4, "text")
    assert inputs(canvas, "4") == {"text": ["1", 1], "strength": 1}


def test_converted_widget_without_a_link_keeps_its_value():
    canvas = Canvas()
    canvas.add(4, "Encode", ["own", 1], inputs="clip:CLIP text!:STRING")
    assert inputs(canvas, "4") == {"text": "own", "strength": 1}


def test_notes_vanish():
    canvas = basic()
    canvas.add(8, "Note", ["read me"])
    canvas.add(9, "MarkdownNote", ["# read me"])
    assert convert(canvas) == BASIC


def test_reroutes_vanish():
    canvas = Canvas()
    canvas.add(1, "Load", ["b.pt", -1], outputs="CLIP:CLIP info:STRING")
    canvas.add(7, "Reroute", inputs=":*", outputs=":*")
    canvas.add(8, "Reroute", inputs=":*", outputs=":*")
    canvas.add(2, "Encode", ["a cat", 0.5], inputs="clip:CLIP", outputs="COND:COND")
    canvas.link(1, 0, 7, "")
    canvas.link(7, 0, 8, "")
    canvas.link(8, 0, 2, "clip")
    assert convert(canvas) == {"1": BASIC["1"], "2": BASIC["2"]}


def test_reroute_without_a_source_feeds_nothing():
    canvas = Canvas()
    canvas.add(7, "Reroute", inputs=":*", outputs=":*")
    canvas.add(2, "Encode", ["a cat", 0.5], inputs="clip:CLIP", outputs="COND:COND")
    canvas.link(7, 0, 2, "clip")
    assert inputs(canvas, "2") == {"text": "a cat", "strength": 0.5}


def test_reroutes_in_a_circle_are_an_error():
    canvas = Canvas()
    canvas.add(7, "Reroute", inputs=":*", outputs=":*")
    canvas.add(8, "Reroute", inputs=":*", outputs=":*")
    canvas.add(2, "Encode", inputs="clip:CLIP")
    canvas.link(7, 0, 8, "")
    canvas.link(8, 0, 7, "")
    canvas.link(8, 0, 2, "clip")
    with pytest.raises(WorkflowError, match=r"node 2 .*'clip'.* in a circle"):
        convert(canvas)


def test_thousands_of_reroutes():
    canvas = Canvas()
    canvas.add("s", "Load", ["b.pt", -1], outputs="CLIP:CLIP")
    previous = "s"
    for i in range(3_000):
        canvas.add(i, "Reroute", inputs=":*", outputs=":*")
        canvas.link(previous, 0, i, "")
        canvas.add(f"e{i}", "Encode", inputs="clip:CLIP")
        canvas.link(i, 0, f"e{i}", "clip")
        previous = i
    assert inputs(canvas, "e2999")["clip"] == ["s", 0]


@pytest.mark.parametrize("mode", [0, 2, 4], ids=["always", "muted", "bypassed"])
def test_primitive_fills_the_widgets_it_is_linked_to(mode):
    canvas = Canvas()
    canvas.add(5, "PrimitiveNode", ["from afar", "fixed"], outputs="STRING:STRING", mode=mode)
    for target in (1, 2):
        canvas.add(target, "Encode", ["own", 1], inputs="clip:CLIP text!:STRING")
        canvas.link(5, 0, target, "text")
    converted = convert(canvas)
    assert list(converted) == ["1", "2"]
    assert {node["inputs"]["text"] for node in converted.values()} == {"from afar"}


@pytest.mark.parametrize("saved", [None, [], {}], ids=["absent", "empty", "empty object"])
def test_primitive_without_a_value_leaves_the_widget_alone(saved):
    canvas = Canvas()
    canvas.add(5, "PrimitiveNode", saved, outputs="STRING:STRING")
    canvas.add(1, "Encode", ["own", 1], inputs="clip:CLIP text!:STRING")
    canvas.link(5, 0, 1, "text")
    assert inputs(canvas, "1")["text"] == "own"


def test_muted_node_and_its_links_vanish():
    canvas = basic()
    canvas.nodes[1]["mode"] = 2
    assert convert(canvas) == {
        "2": {**BASIC["2"], "inputs": {"text": "a cat", "strength": 0.5}},
        "3": BASIC["3"],
    }


@pytest.mark.parametrize("mode", [1, 3], ids=["on event", "on trigger"])
def test_other_modes_run(mode):
    canvas = basic()
    canvas.nodes[2]["mode"] = mode
    assert convert(canvas) == BASIC


def bypassed(types, given, wanted, slot=0):
    """Which of the sources 0, 1, ... a bypassed node hands on to an input."""
    canvas = Canvas()
    canvas.add("b", "Absent", inputs=types, outputs=given, mode=4)
    for i, entry in enumerate(canvas.nodes["b"]["inputs"]):
        canvas.add(f"s{i}", "Absent", outputs=f"out:{entry['type']}")
        canvas.link(f"s{i}", 0, "b", entry["name"])
    canvas.add("t", "Absent", inputs=f"in:{wanted}")
    canvas.link("b", slot, "t", "in")
    source = convert(canvas)["t"]["inputs"].get("in")
    return source if source is None else int(source[0][1:])


@pytest.mark.parametrize(
    ("types", "given", "wanted", "slot", "source"),
    [
        pytest.param("a:CLIP", "o:CLIP", "CLIP", 0, 0, id="same position"),
        pytest.param("a:MODEL b:CLIP", "o:MODEL p:CLIP", "CLIP", 1, 1, id="second position"),
        pytest.param("a:MODEL b:CLIP", "o:CLIP", "CLIP", 0, 1, id="first of the type"),
        pytest.param("a:CLIP b:CLIP", "o:CLIP p:CLIP", "CLIP", 1, 1, id="position before type"),
        pytest.param("a:VAE b:clip c:CLIP", "o:CLIP", "CLIP", 0, 2, id="exact before fitting"),
        pytest.param("a:VAE b:CLIP,MODEL", "o:CLIP", "CLIP", 0, 1, id="one of several types"),
        pytest.param("a:VAE b:*", "o:CLIP", "CLIP", 0, 1, id="wildcard input"),
        pytest.param("a:VAE b:CLIP", "o:CLIP p:CLIP", "*", 1, 1, id="any type: same position"),
        pytest.param("a:VAE", "o:CLIP p:CLIP", "*", 1, 0, id="any type: else the first"),
        pytest.param("a:VAE", "o:CLIP", "CLIP", 0, None, id="nothing fits"),
        pytest.param("", "o:CLIP", "CLIP", 0, None, id="no inputs"),
    ],
)
def test_bypassed_node_hands_on_an_input(types, given, wanted, slot, source):
    assert bypassed(types, given, wanted, slot) == source


def test_bypassed_node_counts_inputs_as_its_class_does():
    canvas = Canvas()
    canvas.add(1, "Absent", outputs="o:COND")
    canvas.add(2, "Combine", inputs="other:COND", outputs="COND:COND", mode=4)
    canvas.add(3, "Save", inputs="cond:COND")
    canvas.link(1, 0, 2, "other")
    canvas.link(2, 0, 3, "cond")
    assert inputs(canvas, "3") == {}  # position 0 is "one", which has no link


@pytest.mark.slow
def test_chain_of_bypassed_nodes():
    canvas = Canvas()
    canvas.add("s", "Load", outputs="CLIP:CLIP")
    previous = "s"
    for i in range(5_000):
        canvas.add(i, "Absent", inputs="clip:CLIP", outputs="CLIP:CLIP", mode=4)
        canvas.link(previous, 0, i, "clip")
        previous = i
    canvas.add("t", "Encode", inputs="clip:CLIP")
    canvas.link(previous, 0, "t", "clip")
    assert inputs(canvas, "t")["clip"] == ["s", 0]


def test_absent_class_keeps_its_links():
    canvas = basic()
    canvas.add(4, "Absent", inputs="clip:CLIP")
    canvas.link(1, 0, 4, "clip")
    assert convert(canvas)["4"] == {
        "inputs": {"clip": ["1", 0]},
        "class_type": "Absent",
        "_meta": {"title": "Absent"},
    }


def test_group_node_of_old_editors_is_noted():
    document = basic().document()
    document["nodes"].append({"id": 9, "type": "workflow>Mine"})
    document["extra"]["groupNodes"] = {"Mine": {"nodes": []}}
    _, said = workflow_to_prompt(document, NodeClasses(CLASSES))
    assert said[0].startswith("node 9 (workflow>Mine): group nodes are not supported")


def test_link_that_is_not_there_is_noted():
    canvas = basic()
    canvas.links.clear()
    assert "node 2 (Encode): input 'clip' names link 1, which does not exist; ignored" in notes(
        canvas
    )


def test_source_that_is_not_there_is_noted():
    canvas = basic()
    del canvas.nodes[1]
    assert notes(canvas) == ("a link comes from node 1, which does not exist; ignored",)


def dynamic(text, **declared):
    """A workflow of one text node, and its classes."""
    options = {"multiline": True, "dynamicPrompts": True} | declared
    canvas = Canvas()
    canvas.add(1, "Text", [text, text], title="Prompt")
    text_node = fake_node(required={"text": ("STRING", options), "plain": ("STRING", {})})
    return canvas, NodeClasses({"Text": text_node})


def test_choices_and_comments_of_dynamic_prompts_are_resolved():
    text = "a {red|green} cat // not this\n/* nor\nthis */ sitting"
    canvas, classes = dynamic(text)
    found = set()
    for _ in range(40):
        prompt, told = workflow_to_prompt(canvas.document(), classes)
        assert prompt["1"]["inputs"]["plain"] == text
        found.add(resolved := prompt["1"]["inputs"]["text"])
        assert told == (
            f"node 1 (Prompt): 'text' is {json.dumps(resolved)} in this run, after its choices "
            "were drawn and its comments left out",
        )
    assert found == {"a red cat \n sitting", "a green cat \n sitting"}


@pytest.mark.parametrize("declared", [False, None, "true", 1])
def test_text_is_kept_unless_its_class_declares_dynamic_prompts(declared):
    canvas, classes = dynamic("{a|b} // c", dynamicPrompts=declared)
    prompt, told = workflow_to_prompt(canvas.document(), classes)
    assert (prompt["1"]["inputs"]["text"], told) == ("{a|b} // c", ())


def test_text_without_choices_and_comments_is_not_noted():
    canvas, classes = dynamic("a cat")
    assert workflow_to_prompt(canvas.document(), classes)[1] == ()


def test_text_of_a_primitive_is_resolved():
    canvas, classes = dynamic("own // c")
    canvas.nodes[1]["inputs"] = [
        {"name": "text", "type": "STRING", "link": None, "widget": {"name": "text"}}
    ]
    canvas.add(2, "PrimitiveNode", ["{x|x} // c"], outputs="STRING:STRING")
    canvas.link(2, 0, 1, "text")
    prompt, told = workflow_to_prompt(canvas.document(), classes)
    assert prompt["1"]["inputs"]["text"] == "x "
    assert len(told) == 1


def test_text_that_a_link_replaces_is_neither_resolved_nor_noted():
    canvas, classes = dynamic("own // c")
    canvas.nodes[1]["inputs"] = [{"name": "text", "type": "STRING", "link": None}]
    canvas.add(2, "Other", outputs="STRING:STRING")
    canvas.link(2, 0, 1, "text")
    prompt, told = workflow_to_prompt(canvas.document(), classes)
    assert (prompt["1"]["inputs"]["text"], told) == (["2", 0], ())


def test_text_of_a_subgraph_widget_is_kept_as_in_the_editor():
    canvas, classes = dynamic("inner")
    canvas.nodes[1]["inputs"] = [
        {"name": "text", "type": "STRING", "link": None, "widget": {"name": "text"}}
    ]
    canvas.link(-10, 0, 1, "text")
    outer = Canvas()
    outer.add(5, "sub", ["{a|b}"], inputs="text!:STRING")
    outer.define("sub", canvas, inputs="text:STRING")
    prompt, told = workflow_to_prompt(outer.document(), classes)
    assert prompt["5:1"]["inputs"]["text"] == "{a|b}"
    assert "comments of 'text' are kept" in told[0]


def test_choices_without_end_name_the_node():
    canvas, classes = dynamic("{" * 2_000)
    with pytest.raises(WorkflowError, match=r"node 1 \(Prompt\), input 'text': .*nests choices"):
        workflow_to_prompt(canvas.document(), classes)


def test_reroutes_of_rgthree_vanish():
    canvas = basic()
    canvas.nodes[2]["inputs"][0]["link"] = None
    canvas.add(10, "Reroute (rgthree)", inputs=":*", outputs=":CLIP")
    canvas.link(1, 0, 10, "")
    canvas.link(10, 0, 2, "clip")
    assert convert(canvas) == BASIC
    assert notes(canvas) == ()


@pytest.mark.parametrize(
    "name", ["Bookmark", "Label", "Fast Groups Muter", "Fast Bypasser", "Mute / Bypass Repeater"]
)
def test_labels_and_switches_of_rgthree_are_a_note(name):
    canvas = basic()
    canvas.add(10, f"{name} (rgthree)", ["1", 1], inputs=":*", outputs="OPT_CONNECTION:*")
    canvas.add(11, "Fast Muter (rgthree)", [], inputs=":*", outputs="OPT_CONNECTION:*")
    canvas.link(2, 0, 10, "")
    canvas.link(10, 0, 11, "")
    assert convert(canvas) == BASIC
    assert [note.partition(":")[0] for note in notes(canvas)] == [
        f"node 10 ({name} (rgthree))",
        "node 11 (Fast Muter (rgthree))",
    ]


def named(getter="GetNode", setter="SetNode", name="clip"):
    """The basic workflow; "Encode" reads the source by a name."""
    canvas = basic()
    canvas.nodes[2]["inputs"][0]["link"] = None
    canvas.add(10, setter, ["clip"], inputs="CLIP:CLIP", outputs="CLIP:CLIP", title="Set_clip")
    canvas.add(11, getter, [name], outputs="CLIP:CLIP", title="Get_clip")
    canvas.link(1, 0, 10, "CLIP")
    canvas.link(11, 0, 2, "clip")
    return canvas


@pytest.mark.parametrize(
    ("getter", "setter"), [("GetNode", "SetNode"), ("easy getNode", "easy setNode")]
)
def test_getter_reads_what_a_setter_names(getter, setter):
    canvas = named(getter, setter)
    assert convert(canvas) == BASIC
    assert notes(canvas) == ()


def test_setter_passes_its_input_on():
    canvas = named()
    canvas.links[-1][1] = 10
    assert convert(canvas) == BASIC


def test_getter_of_a_bypassed_setter_reads_its_source_as_in_the_editor():
    canvas = named()
    canvas.nodes[10]["mode"] = 4
    assert convert(canvas) == BASIC


@pytest.mark.parametrize("mode", [2, 4], ids=["muted", "bypassed"])
def test_switched_off_getter_reads_nothing(mode):
    canvas = named()
    canvas.nodes[11]["mode"] = mode
    assert "clip" not in inputs(canvas, "2")


@pytest.mark.parametrize("name", ["other", None, "", ["clip"]])
def test_name_that_no_setter_gives_is_noted(name):
    canvas = named(name=name)
    assert "clip" not in inputs(canvas, "2")
    assert notes(canvas)[0].startswith("node 11 (Get_clip): no node of this workflow sets")


def test_getter_finds_setters_around_its_subgraph():
    inner = Canvas()
    inner.add(2, "Encode", ["a cat", 0.5], inputs="clip:CLIP", outputs="COND:COND")
    inner.add(11, "GetNode", ["clip"], outputs="CLIP:CLIP")
    inner.link(11, 0, 2, "clip")
    inner.link(2, 0, -20, "0")
    canvas = Canvas()
    canvas.add(1, "Load", ["b.pt", -1], outputs="CLIP:CLIP info:STRING")
    canvas.add(10, "SetNode", ["clip"], inputs="CLIP:CLIP", outputs="*:*")
    canvas.add(5, "sub", outputs="COND:COND")
    canvas.link(1, 0, 10, "CLIP")
    canvas.define("sub", inner, outputs="COND:COND")
    assert inputs(canvas, "5:2")["clip"] == ["1", 0]


def test_names_in_a_circle_are_an_error():
    canvas = named()
    canvas.links[2][1] = 11
    with pytest.raises(WorkflowError, match="in a circle"):
        convert(canvas)


@pytest.mark.parametrize("slots", [(-5, 0), (0, -1)])
def test_negative_slots_are_refused(slots):
    canvas = basic()
    canvas.links[0][2], canvas.links[0][4] = slots
    with pytest.raises(WorkflowError, match=r"a link cannot be read: \[1, 1,"):
        convert(canvas)


def texts_of_instances(size: int) -> bytes:
    """A long text, in each of many instances of a subgraph."""
    text = "{a|b}" + "x" * (size // 2)
    inner = {"id": 1, "type": "Dynamic", "widgets_values": [text]}
    return instances_of(inner, 20)


def inputs_of_instances(size: int) -> bytes:
    """A node of many inputs, in each of many instances of a subgraph."""
    inputs = [{"name": f"i{i}", "type": "X", "link": None} for i in range(size // 50)]
    return instances_of({"id": 1, "type": "Encode", "inputs": inputs}, 300)


def instances_of(inner: dict, count: int) -> bytes:
    graph = {"id": "s", "nodes": [inner], "links": []}
    nodes = [{"id": i, "type": "s"} for i in range(count)]
    return hostile_costs.editor(nodes, [], definitions={"subgraphs": [graph]})


@pytest.mark.parametrize(
    "make",
    [texts_of_instances, inputs_of_instances],
    ids=lambda f: f.__name__,
)
def test_what_instances_multiply_is_bounded(make, monkeypatch):
    monkeypatch.setattr(to_prompt, "MAX_CONVERSION_STEPS", 50_000)
    document = json.loads(make(150_000))
    with pytest.raises(WorkflowError, match="takes more than 50,000 steps"):
        workflow_to_prompt(document, NodeClasses({**CLASSES, "Dynamic": DYNAMIC}))


def test_a_bypassed_node_is_searched_once_however_many_links_leave_it(monkeypatch):
    monkeypatch.setattr(to_prompt, "MAX_CONVERSION_STEPS", 50_000)
    document = json.loads(hostile_costs.bypassed(150_000))
    workflow_to_prompt(document, NodeClasses(CLASSES))


DYNAMIC = fake_node(required={"text": ("STRING", {"dynamicPrompts": True})})


def test_notes_are_bounded():
    canvas = Canvas()
    for number in range(3_000):
        canvas.add(number, "Encode", ["x", 1, "surplus" * 500])
    found = notes(canvas)
    assert len(found) == 1_000
    assert all(len(note) <= 1_000 for note in found)
