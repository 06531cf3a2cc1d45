import pytest
from fake_graph import fake_node
from sd2_clip.headless.editor_format.to_prompt import workflow_to_prompt
from sd2_clip.headless.node_class import NodeClasses
from sd2_clip.headless.workflow_errors import WorkflowError
from ui_canvas import Canvas

CLASSES = {
    "Load": fake_node(required={"name": ("STRING", {})}, returns=("CLIP",)),
    "Encode": fake_node(
        required={"clip": ("CLIP", {}), "text": ("STRING", {}), "strength": ("FLOAT", {})},
        returns=("COND",),
    ),
    "Save": fake_node(required={"cond": ("COND", {})}, OUTPUT_NODE=True),
}


def inside(clip=0, text=None, values=("inner", 1.0)):
    """An Encode whose inputs come from the subgraph's inputs of these numbers."""
    canvas = Canvas()
    canvas.add(
        7, "Encode", list(values), inputs="clip:CLIP text!:STRING strength!:FLOAT", outputs="C:COND"
    )
    if clip is not None:
        canvas.link(-10, clip, 7, "clip")
    if text is not None:
        canvas.link(-10, text, 7, "text")
    canvas.link(7, 0, -20, "0")
    return canvas


def outside(instance_inputs="clip:CLIP", values=None, **extra):
    """Load -> instance 5 of subgraph "sub" -> Save."""
    canvas = Canvas()
    canvas.add(1, "Load", ["x"], outputs="CLIP:CLIP")
    canvas.add(5, "sub", values, inputs=instance_inputs, outputs="C:COND", **extra)
    canvas.add(3, "Save", inputs="cond:COND")
    canvas.link(1, 0, 5, "clip")
    canvas.link(5, 0, 3, "cond")
    return canvas


def convert(canvas, version=0.4):
    return workflow_to_prompt(canvas.document(version), NodeClasses(CLASSES))[0]


def inputs(canvas):
    return {key: node["inputs"] for key, node in convert(canvas).items()}


@pytest.mark.parametrize("version", [0.4, 1])
def test_subgraph_unfolds(version):
    canvas = outside()
    canvas.define("sub", inside(), inputs="clip:CLIP", outputs="C:COND")
    converted = convert(canvas, version)
    assert {key: node["inputs"] for key, node in converted.items()} == {
        "1": {"name": "x"},
        "5:7": {"clip": ["1", 0], "text": "inner", "strength": 1.0},
        "3": {"cond": ["5:7", 0]},
    }


def test_two_instances_are_two_sets_of_nodes():
    canvas = outside()
    canvas.add(6, "sub", inputs="clip:CLIP", outputs="C:COND")
    canvas.link(1, 0, 6, "clip")
    canvas.define("sub", inside(), inputs="clip:CLIP", outputs="C:COND")
    assert {"5:7", "6:7"} <= set(inputs(canvas))


def nested():
    middle = Canvas()
    middle.add(9, "inner", inputs="c:CLIP text!:STRING", outputs="C:COND")
    middle.link(-10, 0, 9, "c")
    middle.link(-10, 1, 9, "text")
    middle.link(9, 0, -20, "0")
    return middle


@pytest.mark.parametrize("place", ["beside", "within"])
def test_nested_subgraphs(place):
    canvas = outside("clip:CLIP text!:STRING", ["outer"])
    middle = nested()
    (canvas if place == "beside" else middle).define(
        "inner", inside(text=1), inputs="c:CLIP text:STRING", outputs="C:COND"
    )
    canvas.define("sub", middle, inputs="clip:CLIP text:STRING", outputs="C:COND")
    assert inputs(canvas) == {
        "1": {"name": "x"},
        "5:9:7": {"clip": ["1", 0], "text": "outer", "strength": 1.0},
        "3": {"cond": ["5:9:7", 0]},
    }


def test_linked_input_of_the_instance_beats_its_value():
    canvas = outside("clip:CLIP text!:STRING", ["ignored"])
    canvas.add(2, "Absent", outputs="S:STRING")
    canvas.link(2, 0, 5, "text")
    canvas.define("sub", inside(text=1), inputs="clip:CLIP text:STRING", outputs="C:COND")
    assert inputs(canvas)["5:7"]["text"] == ["2", 0]


@pytest.mark.parametrize(
    ("values", "extra", "expected"),
    [
        pytest.param(["host"], {}, "host", id="by position"),
        pytest.param({"text": "host"}, {}, "host", id="by name in an object"),
        pytest.param([], {"widgets_values_named": {"text": "host"}}, "host", id="named"),
        pytest.param(["host"], {"widgets_values_named": {"text": "x"}}, "host", id="both"),
        pytest.param(
            ["x", 1], {"widgets_values_named": {"text": "host"}}, "host", id="named, positions off"
        ),
        pytest.param([], {}, "inner", id="empty"),
        pytest.param(None, {}, "inner", id="absent"),
        pytest.param([None], {}, "inner", id="hole"),
        pytest.param(
            ["host"], {"properties": {"proxyWidgets": [["7", "text"]]}}, "host", id="proxy, linked"
        ),
        pytest.param(
            ["host"],
            {"properties": {"proxyWidgets": [["-1", "text"]]}},
            "host",
            id="proxy of input",
        ),
    ],
)
def test_promoted_widget_of_an_input(values, extra, expected):
    canvas = outside("clip:CLIP text!:STRING", values, **extra)
    canvas.define("sub", inside(text=1), inputs="clip:CLIP text:STRING", outputs="C:COND")
    assert inputs(canvas)["5:7"]["text"] == expected


@pytest.mark.parametrize("deep", [False, True], ids=["subgraph", "nested subgraph"])
def test_input_that_leads_to_a_widget_holds_its_value_for_other_nodes_too(deep):
    inner = inside(text=1)
    inner.add(8, "Absent", inputs="anything:*")
    inner.link(-10, 1, 8, "anything")
    canvas = outside("clip:CLIP text!:STRING", [])
    if deep:
        middle = nested()
        middle.define("inner", inner, inputs="c:CLIP text:STRING", outputs="C:COND")
        canvas.define("sub", middle, inputs="clip:CLIP text:STRING", outputs="C:COND")
    else:
        canvas.define("sub", inner, inputs="clip:CLIP text:STRING", outputs="C:COND")
    found = inputs(canvas)
    assert found["5:9:8" if deep else "5:8"] == {"anything": "inner"}


def test_each_instance_has_its_own_values():
    canvas = outside("clip:CLIP text!:STRING", ["one"])
    canvas.add(6, "sub", ["two"], inputs="clip:CLIP text!:STRING", outputs="C:COND")
    canvas.define("sub", inside(text=1), inputs="clip:CLIP text:STRING", outputs="C:COND")
    converted = inputs(canvas)
    assert (converted["5:7"]["text"], converted["6:7"]["text"]) == ("one", "two")


def test_positions_count_promoted_inputs_only():
    inner = inside(clip=1, text=2)
    inner.link(-10, 0, 7, "strength")
    canvas = outside("strength!:FLOAT clip:CLIP text!:STRING", [0.25, "host"])
    canvas.define("sub", inner, inputs="strength:FLOAT clip:CLIP text:STRING", outputs="C:COND")
    found = inputs(canvas)["5:7"]
    assert (found["strength"], found["text"]) == (0.25, "host")


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        pytest.param("Encode", "text:STRING", id="known by its class"),
        pytest.param("Absent", "text!:STRING", id="known by its socket"),
    ],
)
def test_promoted_widget_is_known_by_class_or_socket(kind, entry):
    inner = Canvas()
    inner.add(7, kind, inputs=f"clip:CLIP {entry}")
    inner.link(-10, 0, 7, "text")
    canvas = outside("clip:CLIP", ["host"])
    canvas.define("sub", inner, inputs="words:STRING clip:CLIP", outputs="C:COND")
    assert inputs(canvas)["5:7"]["text"] == "host"


def test_proxy_without_an_input_changes_the_inner_node():
    canvas = outside(
        "clip:CLIP",
        ["host", 0.5],
        properties={"proxyWidgets": [["7", "text"], ["7", "strength"]]},
    )
    canvas.define("sub", inside(), inputs="clip:CLIP", outputs="C:COND")
    found = inputs(canvas)["5:7"]
    assert (found["text"], found["strength"]) == ("host", 0.5)


def test_primitive_does_not_reach_into_a_subgraph():
    """In the editor (1.27 to 1.58) the inner widget's own value is used, whatever is seen."""
    canvas = outside("clip:CLIP text!:STRING", ["host"])
    canvas.add(2, "PrimitiveNode", ["primitive", "fixed"], outputs="S:STRING")
    canvas.link(2, 0, 5, "text")
    canvas.define("sub", inside(text=1), inputs="clip:CLIP text:STRING", outputs="C:COND")
    prompt, notes = workflow_to_prompt(canvas.document(), NodeClasses(CLASSES))
    assert prompt["5:7"]["inputs"]["text"] == "inner"
    assert notes[0].startswith("node 5:7 (Encode): input 'text' keeps its own value")


def test_primitive_inside_fills_a_widget_inside():
    inner = inside()
    inner.add(2, "PrimitiveNode", ["primitive", "fixed"], outputs="S:STRING")
    inner.link(2, 0, 7, "text")
    canvas = outside()
    canvas.define("sub", inner, inputs="clip:CLIP", outputs="C:COND")
    assert inputs(canvas)["5:7"]["text"] == "primitive"


def test_muted_instance_vanishes():
    canvas = outside(mode=2)
    canvas.define("sub", inside(), inputs="clip:CLIP", outputs="C:COND")
    assert inputs(canvas) == {"1": {"name": "x"}, "3": {}}


def test_bypassed_instance_hands_on_an_input():
    canvas = outside(mode=4)
    canvas.add(4, "Absent", inputs="clip:CLIP")
    canvas.nodes[5]["outputs"][0]["type"] = "CLIP"
    canvas.link(5, 0, 4, "clip")
    canvas.define("sub", inside(), inputs="clip:CLIP", outputs="C:COND")
    converted = inputs(canvas)
    assert "5:7" not in converted
    assert converted["4"] == {"clip": ["1", 0]}


def test_muted_node_inside():
    inner = inside()
    inner.nodes[7]["mode"] = 2
    canvas = outside()
    canvas.define("sub", inner, inputs="clip:CLIP", outputs="C:COND")
    assert inputs(canvas) == {"1": {"name": "x"}, "3": {}}


def test_subgraph_may_pass_an_input_straight_to_an_output():
    inner = Canvas()
    inner.add(7, "Reroute", inputs=":*", outputs=":*")
    inner.link(-10, 0, 7, "")
    inner.link(7, 0, -20, "0")
    canvas = outside()
    canvas.add(4, "Absent", inputs="clip:CLIP")
    canvas.link(5, 0, 4, "clip")
    canvas.define("sub", inner, inputs="clip:CLIP", outputs="C:CLIP")
    assert inputs(canvas)["4"] == {"clip": ["1", 0]}


def test_output_that_nothing_feeds_gives_nothing():
    inner = inside()
    inner.links.pop()
    canvas = outside()
    canvas.define("sub", inner, inputs="clip:CLIP", outputs="C:COND")
    assert inputs(canvas)["3"] == {}


def test_definition_that_is_not_there_is_an_absent_class():
    assert convert(outside())["5"]["class_type"] == "sub"


def test_subgraph_in_itself_is_an_error():
    inner = inside()
    inner.add(8, "sub", inputs="clip:CLIP", outputs="C:COND")
    canvas = outside()
    canvas.define("sub", inner, inputs="clip:CLIP", outputs="C:COND")
    with pytest.raises(WorkflowError, match="Subgraph sub' contains itself"):
        convert(canvas)


def test_subgraphs_cannot_fill_the_memory(monkeypatch):
    monkeypatch.setattr("sd2_clip.headless.editor_format.subgraphs.MAX_WORKFLOW_NODES", 1000)
    canvas = Canvas()
    for level in range(40):
        inner = Canvas()
        inner.add(1, f"level{level + 1}")
        inner.add(2, f"level{level + 1}")
        canvas.define(f"level{level}", inner)
    canvas.add(1, "level0")
    with pytest.raises(WorkflowError, match="more than 1,000 nodes"):
        convert(canvas)


def test_deeply_nested_subgraphs():
    depth = 1500
    canvas = Canvas()
    canvas.add(1, "Load", ["x"], outputs="CLIP:CLIP")
    canvas.add(2, "level0", ["host"], inputs="clip:CLIP text!:STRING")
    canvas.link(1, 0, 2, "clip")
    for level in range(depth):
        inner = Canvas()
        if level == depth - 1:
            inner.add(2, "Encode", ["inner", 1.0], inputs="clip:CLIP text!:STRING")
        else:
            inner.add(2, f"level{level + 1}", inputs="clip:CLIP text!:STRING")
        inner.link(-10, 0, 2, "clip")
        inner.link(-10, 1, 2, "text")
        canvas.define(f"level{level}", inner, inputs="clip:CLIP text:STRING")
    found = inputs(canvas)[":".join(["2"] * (depth + 1))]
    assert found == {"text": "host", "strength": 1.0, "clip": ["1", 0]}
