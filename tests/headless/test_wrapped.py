import json

import pytest
from fake_graph import NODES, node
from sd2_clip.headless.workflow import load_workflow
from sd2_clip.headless.workflow_errors import WorkflowError
from sd2_clip.headless.wrapped import unwrap_document

PROMPT = {"1": node("Number", value=3), "2": node("Show", value=["1", 0])}
UI = {"nodes": [{"id": 4, "type": "Show", "widgets_values": [5]}], "links": []}
ENTRY = {
    "prompt": [5, "b7c1", PROMPT, {"extra_pnginfo": {"workflow": UI}, "client_id": "x"}, ["2"]],
    "outputs": {"2": {"shown": [3]}},
    "status": {"status_str": "success", "completed": True, "messages": []},
    "meta": {},
}


@pytest.mark.parametrize(
    ("document", "ui_workflow"),
    [
        pytest.param(PROMPT, None, id="prompt"),
        pytest.param({"prompt": PROMPT, "client_id": "x"}, None, id="request"),
        pytest.param({"prompt": PROMPT, "workflow": UI}, UI, id="both"),
        pytest.param(
            {"prompt": json.dumps(PROMPT), "workflow": json.dumps(UI)}, UI, id="both as text"
        ),
        pytest.param(json.dumps(PROMPT), None, id="text"),
        pytest.param(json.dumps({"prompt": PROMPT}), None, id="request as text"),
        pytest.param({"b7c1": ENTRY}, UI, id="history"),
        pytest.param(ENTRY, UI, id="entry"),
        pytest.param({"prompt": [5, "b7c1", PROMPT]}, None, id="short entry"),
        pytest.param({"prompt": [5, "b7c1", PROMPT, None, []]}, None, id="entry without data"),
    ],
)
def test_prompt_is_unwrapped(document, ui_workflow):
    assert unwrap_document(document) == (PROMPT, ui_workflow)


def test_entry_of_the_history_is_loaded(tmp_path):
    (tmp_path / "history.json").write_text(json.dumps({"b7c1": ENTRY}))
    loaded = load_workflow(tmp_path / "history.json", NODES)
    assert (loaded.prompt, loaded.ui_workflow) == (PROMPT, UI)


@pytest.mark.parametrize(
    "document",
    [UI, {"workflow": UI}, {"prompt": UI}, json.dumps(UI), {"workflow": json.dumps(UI)}],
    ids=["itself", "under its name", "under prompt", "text", "text under its name"],
)
def test_workflow_is_unwrapped(document):
    assert unwrap_document(document) == (UI, None)


@pytest.mark.parametrize(
    "document", [5, None, [], "a cat", {}, {"1": 3}, {"prompt": {"class_type": "Number"}}]
)
def test_what_wraps_nothing_is_returned(document):
    assert unwrap_document(document) == (document, None)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"b7c1": ENTRY, "c8d2": ENTRY}, "history of 2 runs: b7c1, c8d2"),
        ({"queue_running": [], "queue_pending": []}, "queue"),
        ({"prompt": [5, "b7c1"]}, "without its prompt"),
        ({"b7c1": {"prompt": []}}, "without its prompt"),
        ({"prompt": [5, "b7c1", "x", {}, []]}, "without its prompt"),
    ],
)
def test_what_holds_not_one_prompt_is_named(document, words):
    with pytest.raises(WorkflowError, match=words):
        unwrap_document(document)
