import json
import struct
import zlib
from copy import deepcopy
from pathlib import Path

import pytest
from browser_models import write_expanded
from fake_graph import NODES, node
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.headless.validation.validate import validate
from sd2_clip.headless.workflow import load_workflow
from sd2_clip.headless.workflow_errors import WorkflowError
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.state_dict_keys import text_model_shapes

EDITOR_WORKFLOWS = Path(__file__).parents[1] / "data" / "editor_workflows"

PROMPT = {"1": node("Number", value=3, title="Ünïcode 猫"), "2": node("Show", value=["1", 0])}
UI = {
    "nodes": [{"id": 4, "type": "Number", "inputs": [], "outputs": [], "widgets_values": [5]}],
    "links": [],
}


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(*chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def plain(key, document):
    return chunk(b"tEXt", key.encode() + b"\0" + json.dumps(document).encode("latin-1"))


def compressed(key, document):
    text = zlib.compress(json.dumps(document).encode())
    return chunk(b"zTXt", key.encode() + b"\0\0" + text)


def international(key, document, *, compress=False):
    text = json.dumps(document, ensure_ascii=False).encode()
    if compress:
        text = zlib.compress(text)
    flag = b"\1" if compress else b"\0"
    return chunk(
        b"iTXt", key.encode() + b"\0" + flag + b"\0" + b"en\0" + key.encode() + b"\0" + text
    )


COND = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}


def safetensors(metadata):
    header = json.dumps({"__metadata__": metadata, "cond": COND} if metadata else {"cond": COND})
    return struct.pack("<Q", len(header)) + header.encode() + b"\0" * 64


def load(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    return load_workflow(path, NODES)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(json.dumps(PROMPT).encode(), id="JSON"),
        pytest.param(b"\xef\xbb\xbf" + json.dumps(PROMPT).encode(), id="JSON with a BOM"),
        pytest.param(json.dumps(PROMPT).encode("utf-16"), id="UTF-16 with a BOM"),
        pytest.param(json.dumps(PROMPT).encode("utf-16-be"), id="UTF-16"),
        pytest.param(json.dumps({"prompt": PROMPT}).encode(), id="wrapped JSON"),
        pytest.param(json.dumps(json.dumps(PROMPT)).encode(), id="JSON string"),
        pytest.param(png(plain("prompt", PROMPT)), id="PNG tEXt"),
        pytest.param(png(compressed("prompt", PROMPT)), id="PNG zTXt"),
        pytest.param(png(international("prompt", PROMPT)), id="PNG iTXt"),
        pytest.param(png(international("prompt", PROMPT, compress=True)), id="PNG compressed iTXt"),
        pytest.param(png(plain("workflow", UI), plain("prompt", PROMPT)), id="PNG with both"),
        pytest.param(
            safetensors({"prompt": json.dumps(PROMPT), "text": "a cat"}), id="safetensors"
        ),
    ],
)
def test_prompt_is_found(tmp_path, data):
    assert load(tmp_path, data).prompt == PROMPT


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(json.dumps(UI).encode(), id="JSON"),
        pytest.param(png(plain("workflow", UI)), id="PNG"),
        pytest.param(safetensors({"workflow": json.dumps(UI)}), id="safetensors"),
    ],
)
def test_editor_workflow_is_found_and_converted(tmp_path, data):
    loaded = load(tmp_path, data)
    assert loaded.prompt["4"]["inputs"] == {"value": 5}
    assert loaded.ui_workflow == UI


def test_editor_workflow_beside_the_prompt_is_kept(tmp_path):
    loaded = load(tmp_path, png(plain("workflow", UI), plain("prompt", PROMPT)))
    assert loaded.ui_workflow == UI


def test_document_may_be_given_itself():
    assert load_workflow(PROMPT, NODES).prompt == PROMPT


def test_titles_name_every_node(tmp_path):
    assert load_workflow(PROMPT, NODES).titles == {"1": "Ünïcode 猫", "2": "Show"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"{", "not JSON", id="cut JSON"),
        pytest.param(b"[" * 100_000, "too deep", id="JSON nested too deeply"),
        pytest.param(b'{"5": ' + b"9" * 5000 + b"}", "not JSON|node 5", id="number without end"),
        pytest.param(b"\xff\xd8\xff\xe0", "neither JSON", id="JPEG"),
        pytest.param(b"5", "JSON object", id="number"),
        pytest.param(b'{"5": 3}', "node 5", id="no nodes"),
        pytest.param(png(), "carries no workflow", id="PNG without"),
        pytest.param(png()[:-20], "damaged", id="cut PNG"),
        pytest.param(png(chunk(b"zTXt", b"prompt\0\0x")), "damaged", id="PNG with a bad text"),
        pytest.param(
            struct.pack("<Q", 99999) + b'{"a":' + b"[" * 99994,
            "damaged safetensors",
            id="deep safetensors",
        ),
        pytest.param(safetensors({}), "carries no workflow", id="safetensors without"),
        pytest.param(safetensors({"a": "b"})[:20], "truncated", id="cut safetensors"),
        pytest.param(
            png(plain("prompt", PROMPT).replace(b"{", b"[", 1)), "no workflow", id="PNG, no JSON"
        ),
    ],
)
def test_what_is_no_workflow_is_named(tmp_path, data, words):
    with pytest.raises(WorkflowError, match=words) as caught:
        load(tmp_path, data)
    assert str(tmp_path / "file") in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(WorkflowError, match=r"nothing\.json: No such file"):
        load_workflow(tmp_path / "nothing.json", NODES)


class DynamicEncode(NODE_CLASS_MAPPINGS["EncodeSD2Text"]):
    """Encode SD2 Text, with the widget's declaration that these tests are about."""

    @classmethod
    def INPUT_TYPES(cls):
        declared = deepcopy(super().INPUT_TYPES())
        declared["required"]["text"][1]["dynamicPrompts"] = True
        return declared


@pytest.mark.parametrize(
    ("name", "texts", "noted"),
    [
        ("bookmark_rgthree", {"a cat"}, ["node 10 (Bookmark (rgthree)): left out"]),
        ("reroute_rgthree", {"a cat"}, []),
        (
            "dynamic_prompt",
            {"a red cat \n sitting", "a green cat \n sitting"},
            ["node 2 (EncodeSD2Text): 'text' is \"a "],
        ),
    ],
)
def test_workflows_with_what_only_the_editor_has_can_run(name, texts, noted, standalone, tmp_path):
    encoder = tmp_path / "models/text_encoders/sd2-RANDOM-WEIGHTS-demo.safetensors"
    write_expanded(encoder, dict(text_model_shapes(load_config(), range(23))))
    classes = {**NODE_CLASS_MAPPINGS, "EncodeSD2Text": DynamicEncode}
    workflow = load_workflow(EDITOR_WORKFLOWS / f"{name}.json", classes)
    validation = validate(workflow)
    assert (validation.outputs, validation.lines()) == (("3",), [])
    assert workflow.prompt["2"]["inputs"]["clip"] == ["1", 0]
    assert workflow.prompt["2"]["inputs"]["text"] in texts
    notes = [note for note in workflow.notes if "saved widget values" not in note]
    assert [note[: len(start)] for note, start in zip(notes, noted, strict=True)] == noted
