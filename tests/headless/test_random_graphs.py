"""Properties of whole graphs, valid and broken, in the API's format and the editor's."""

from __future__ import annotations

import copy
import json
import string
from typing import Any

import pytest
import tiny
from fake_graph import fake_node
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.headless.execution.executor import Executor
from sd2_clip.headless.validation.validate import Validation, validate
from sd2_clip.headless.workflow import Workflow, load_workflow
from sd2_clip.host.standalone_clip import StandaloneClip
from sd2_clip.sd2.errors import MAX_MESSAGE, SD2ClipError, plain_text
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer

pytestmark = pytest.mark.slow

BOUNDED = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=list(HealthCheck),
)

SHOW = fake_node(
    lambda conditioning: {"ui": {"shown": [len(conditioning)]}},
    required={"conditioning": ("CONDITIONING", {})},
    OUTPUT_NODE=True,
)
CLASSES: dict[str, type] = {
    **NODE_CLASS_MAPPINGS,
    "Clip": fake_node(lambda: (CLIPS[0],), returns=("CLIP",)),
    "Show": SHOW,
}
CLIPS: list[Any] = []

TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["a (cat:1.2)", "[a:b:0.5] AND c", "{a|b} // c", "embedding:x", "\ud800", "\0"]
    ),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.just(2**70),
    st.floats(),
    TEXTS,
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.sampled_from(["__value__", "a"]), st.integers(), max_size=2),
)
IDS = st.one_of(st.integers(0, 9), st.text(string.ascii_letters + "-:. é", min_size=1, max_size=4))


# Prompts in the API's format


@st.composite
def prompts(draw: st.DrawFn) -> dict[str, Any]:
    """A valid prompt: one encoder, texts, and what shows them; ids in any order."""
    ids = draw(st.lists(IDS.map(str), min_size=3, max_size=9, unique=True))
    loader, *others = ids
    nodes: dict[str, Any] = {loader: {"class_type": "Clip", "inputs": {}}}
    encoders: list[str] = []
    for number, node_id in enumerate(others):
        if number == 0 or draw(st.booleans()):
            text = draw(st.sampled_from(["", "a cat", "a (cat:1.2), [b]", "x" * 300]))
            inputs: dict[str, Any] = {"clip": [loader, 0], "text": text}
            if draw(st.booleans()):
                inputs["syntax"] = draw(st.sampled_from(["comfy", "a1111"]))
            nodes[node_id] = {"class_type": "EncodeSD2Text", "inputs": inputs}
            encoders.append(node_id)
        else:
            source = draw(st.sampled_from(encoders))
            nodes[node_id] = {"class_type": "Show", "inputs": {"conditioning": [source, 0]}}
    nodes["show"] = {"class_type": "Show", "inputs": {"conditioning": [encoders[-1], 0]}}
    return {key: nodes[key] for key in draw(st.permutations(list(nodes)))}


@st.composite
def broken_prompts(draw: st.DrawFn) -> dict[str, Any]:
    """A prompt with links to nowhere, cycles, wrong types, and parts that are something else."""
    prompt: dict[str, Any] = copy.deepcopy(draw(prompts()))
    for _ in range(draw(st.integers(1, 4))):
        node = draw(st.sampled_from(list(prompt.values())))
        if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
            continue
        change = draw(st.sampled_from(["link", "value", "class", "part", "node"]))
        name = draw(st.sampled_from([*node["inputs"], "clip", "text", "conditioning", "other"]))
        target = draw(st.one_of(st.sampled_from(list(prompt)), IDS.map(str)))
        if change == "link":
            node["inputs"][name] = [target, draw(st.sampled_from([0, 1, 7, -1, 2**70, 0.5]))]
        elif change == "value":
            node["inputs"][name] = draw(VALUES)
        elif change == "class":
            node["class_type"] = draw(st.sampled_from([*CLASSES, "None", "EncodeSD2Tex"]))
        elif change == "part":
            node[draw(st.sampled_from(["inputs", "class_type", "_meta"]))] = draw(VALUES)
        else:
            prompt[target] = draw(VALUES)
    return prompt


# Workflows in the editor's format


class Drawn:
    """Draws a workflow whose every node and link fits."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.free_ids = iter(draw(st.permutations(range(1, 60))))
        self.subgraphs: list[dict[str, Any]] = []

    def add(self, kind: str, inputs: dict[str, Any], output: str = "", **more: Any) -> int:
        """Add a node; *inputs* are a type and a source, or None, by name. Returns its id."""
        number = next(self.free_ids)
        node: dict[str, Any] = {"id": number, "type": kind, "mode": 0, **more}
        node["inputs"] = [
            {"name": name, "type": type, "link": None} for name, (type, _) in inputs.items()
        ]
        if output:
            node["outputs"] = [{"name": output, "type": output}]
        self.nodes.append(node)
        for slot, (type, source) in enumerate(inputs.values()):
            if source is not None:
                link = len(self.links) + 1
                node["inputs"][slot]["link"] = link
                self.links.append([link, source, 0, number, slot, type])
        return number

    def passed(self, source: int, type: str) -> int:
        """Let a link go through what the editor has for it, any number of times."""
        for how in self.draw(st.lists(st.sampled_from(["reroute", "names", "bypass"]), max_size=3)):
            if how == "reroute":
                source = self.add("Reroute", {"": ("*", source)}, type)
            elif how == "names":
                name = f"n{len(self.nodes)}"
                self.add("SetNode", {type: (type, source)}, widgets_values=[name])
                source = self.add("GetNode", {}, type, widgets_values=[name])
            else:
                source = self.add("Unknown", {"in": (type, source)}, type, mode=4)
        return source

    def encoder(self, clip: int) -> int:
        """An encoder, which may be in a subgraph."""
        text = self.draw(st.sampled_from(["a cat", "", "{a|b}", "a, b // c"]))
        if not self.draw(st.booleans()):
            return self.add(
                "EncodeSD2Text", {"clip": ("CLIP", clip)}, "CONDITIONING", widgets_values=[text]
            )
        name = f"subgraph-{len(self.subgraphs)}"
        inner = {
            "id": 1,
            "type": "EncodeSD2Text",
            "inputs": [{"name": "clip", "type": "CLIP", "link": 1}],
            "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}],
            "widgets_values": [text],
        }
        self.subgraphs.append(
            {
                "id": name,
                "nodes": [inner],
                "links": [[1, -10, 0, 1, 0, "CLIP"], [2, 1, 0, -20, 0, "CONDITIONING"]],
                "inputs": [{"name": "clip", "type": "CLIP"}],
                "outputs": [{"name": "c", "type": "CONDITIONING"}],
            }
        )
        return self.add(name, {"clip": ("CLIP", clip)}, "CONDITIONING")

    def document(self) -> dict[str, Any]:
        order = self.draw(st.permutations(self.nodes))
        return {
            "version": 0.4,
            "nodes": order,
            "links": self.draw(st.permutations(self.links)),
            "definitions": {"subgraphs": self.subgraphs},
        }


@st.composite
def workflows(draw: st.DrawFn) -> dict[str, Any]:
    """A valid workflow of the editor, with one to three outputs."""
    drawn = Drawn(draw)
    clip = drawn.add("Clip", {}, "CLIP")
    for _ in range(draw(st.integers(1, 3))):
        source = drawn.passed(drawn.encoder(drawn.passed(clip, "CLIP")), "CONDITIONING")
        drawn.add("Show", {"conditioning": ("CONDITIONING", source)})
    if draw(st.booleans()):
        drawn.add("Note", {}, widgets_values=["a note"])
    if draw(st.booleans()):
        drawn.add("Show", {"conditioning": ("CONDITIONING", None)}, mode=2)
    return drawn.document()


@st.composite
def broken_workflows(draw: st.DrawFn) -> dict[str, Any]:
    """A workflow with parts that are missing, exchanged or something else."""
    document: dict[str, Any] = copy.deepcopy(draw(workflows()))
    for _ in range(draw(st.integers(1, 4))):
        container: Any = document
        while True:
            keys = list(container) if isinstance(container, dict) else range(len(container))
            if not keys:
                break
            key = draw(st.sampled_from(list(keys)))
            inner = container[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 5)):
                container = inner
                continue
            change = draw(st.sampled_from(["value", "none", "mode", "delete", "twice"]))
            if change == "delete":
                del container[key]
            elif change == "twice" and isinstance(container, list):
                container.append(copy.deepcopy(inner))
            elif change == "mode" and isinstance(container, dict):
                container["mode"] = draw(st.sampled_from([2, 4]))
            elif change == "none":
                container[key] = None
            else:
                container[key] = draw(st.one_of(VALUES, st.integers(0, 60)))
            break
    return document


# What holds of them


def loaded(document: Any) -> Workflow:
    """As a file: what JSON makes of it."""
    return load_workflow(json.loads(json.dumps(document)), CLASSES)


def validated(document: Any) -> Validation:
    return validate(loaded(document))


def check_broken(document: Any) -> None:
    """Either one of our errors, or a result whose lines can be shown."""
    try:
        validation = validated(document)
    except SD2ClipError as error:
        message = str(error)
        assert 0 < len(message) <= MAX_MESSAGE
        assert plain_text(message, None) == message
        return
    for line in validation.lines():
        assert len(line) <= MAX_MESSAGE
        assert plain_text(line, None) == line
    assert validation.ok == bool(validation.outputs)
    assert {*validation.outputs} <= {*validation.graph} <= {*validation.workflow.graph}


@BOUNDED
@given(broken_prompts())
def test_broken_prompt_is_answered(prompt: dict[str, Any]) -> None:
    check_broken(prompt)


@BOUNDED
@given(broken_workflows())
def test_broken_workflow_is_answered(document: dict[str, Any]) -> None:
    check_broken(document)


@pytest.mark.nightly
@settings(BOUNDED, max_examples=10_000)
@given(st.one_of(broken_prompts(), broken_workflows()))
def test_many_broken_graphs_are_answered(document: dict[str, Any]) -> None:
    check_broken(document)


@BOUNDED
@given(prompts(), st.randoms(use_true_random=False))
def test_names_and_order_of_nodes_change_nothing(prompt: dict[str, Any], random: Any) -> None:
    first = validated(prompt)
    names = dict(zip(prompt, (f"n{i}" for i in range(len(prompt))), strict=True))
    renamed = {
        names[key]: {
            **node,
            "inputs": {
                name: [names[value[0]], value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            },
        }
        for key, node in prompt.items()
    }
    order = list(renamed)
    random.shuffle(order)
    second = validated({key: renamed[key] for key in order})
    assert first.ok
    assert second.ok
    assert {names[one] for one in first.outputs} == set(second.outputs)
    assert {names[one] for one in first.graph} == set(second.graph)


@BOUNDED
@given(workflows())
def test_valid_workflow_becomes_a_valid_prompt(document: dict[str, Any]) -> None:
    check_valid(document)


def check_valid(document: dict[str, Any]) -> None:
    workflow = loaded(document)
    validation = validate(workflow)
    assert validation.ok, validation.lines()
    assert not validation.bad_nodes
    shows = [n for n in document["nodes"] if n["type"] == "Show" and n["mode"] == 0]
    assert {*validation.outputs} == {str(node["id"]) for node in shows}
    # The prompt that it became is one itself, and comes out as it went in.
    again = loaded(workflow.prompt)
    assert again.prompt == workflow.prompt
    assert validate(again).outputs == validation.outputs


@pytest.mark.nightly
@settings(BOUNDED, max_examples=2_000)
@given(workflows())
def test_many_valid_workflows_become_valid_prompts(document: dict[str, Any]) -> None:
    check_valid(document)


@settings(BOUNDED, max_examples=20)
@given(st.one_of(prompts(), workflows()))
def test_valid_graph_runs(document: dict[str, Any]) -> None:
    if not CLIPS:
        CLIPS.append(StandaloneClip(tiny.text_encoder(), SD2Tokenizer()))
    validation = validated(document)
    execution = Executor().execute(validation)
    assert execution.status == "success", execution.error
    assert {*execution.outputs} == {*validation.outputs}
    assert {*execution.executed, *execution.cached} <= {*validation.graph}
