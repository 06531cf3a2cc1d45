import pytest
from ui_canvas import Canvas
from ui_workflow import inputs, notes

SAMPLE = {"seed": 7, "steps": 30, "method": "heun", "size": 5, "name": "n"}


@pytest.mark.parametrize(
    "saved",
    [
        pytest.param(
            [7, "randomize", 30, "heun", "fixed", "", 5, "increment", "n"], id="by position"
        ),
        pytest.param([7, 30, "heun", 5, "n"], id="without the editor's own widgets"),
        pytest.param(
            [7, "randomize", 30, "heun", "fixed", "", None, 5, "increment", "n"],
            id="with a dummy for forceInput",
        ),
        pytest.param({**SAMPLE, "control_after_generate": "fixed"}, id="by name"),
    ],
)
def test_widget_values(saved):
    canvas = Canvas()
    canvas.add(1, "Sample", saved, inputs="model:MODEL")
    assert inputs(canvas, "1") == SAMPLE


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        pytest.param(["a.pt", 0], {"name": "a.pt", "index": 0}, id="positions fit"),
        pytest.param(["a.pt"], {"name": "b.pt", "index": 9}, id="too few"),
        pytest.param(["a.pt", 0, 1], {"name": "b.pt", "index": 9}, id="too many"),
        pytest.param([0, "a.pt"], {"name": "b.pt", "index": 9}, id="other types"),
        pytest.param(["a.pt", True], {"name": "b.pt", "index": 9}, id="a boolean is no number"),
    ],
)
def test_names_count_where_positions_do_not_fit_the_class(positions, expected):
    canvas = Canvas()
    canvas.add(1, "Load", positions, widgets_values_named={"name": "b.pt", "index": 9})
    assert inputs(canvas, "1") == expected


@pytest.mark.parametrize("saved", [[], None, {}], ids=["empty", "absent", "empty object"])
def test_widget_that_was_not_saved_has_its_default(saved):
    canvas = Canvas()
    canvas.add(1, "Sample", saved)
    assert inputs(canvas, "1") == {
        "seed": 0,
        "steps": 20,
        "method": "euler",
        "size": 0,
        "name": "x",
    }


def test_input_added_to_a_class_later_has_its_default():
    canvas = Canvas()
    canvas.add(1, "Load", ["b.pt"])
    assert inputs(canvas, "1") == {"name": "b.pt", "index": -2}


def test_surplus_values_are_noted():
    canvas = Canvas()
    canvas.add(1, "Load", ["b.pt", 1, "old"])
    assert notes(canvas) == (
        "node 1 (Load): 1 saved widget values have no widget in this version of the class; ignored",
    )


@pytest.mark.parametrize(
    ("saved", "extra"),
    [
        pytest.param({"seed": 5, "text": "t"}, {}, id="by name"),
        pytest.param(None, {"widgets_values_named": {"seed": 5, "text": "t"}}, id="named"),
        pytest.param([5, "t"], {}, id="by the sockets of its widgets"),
        pytest.param([5, "randomize", "t"], {}, id="with a control"),
    ],
)
def test_absent_class_keeps_what_can_be_named(saved, extra):
    canvas = Canvas()
    canvas.add(1, "Absent", saved, inputs="seed!:INT text!:STRING", **extra)
    assert inputs(canvas, "1") == {"seed": 5, "text": "t"}


def test_absent_class_loses_values_without_names():
    canvas = Canvas()
    canvas.add(1, "Absent", [5, "t", 7], inputs="seed!:INT")
    assert inputs(canvas, "1") == {}
