"""The nodes that encode a prompt and show its tokens, called as an executor calls them."""

import json
from pathlib import Path

import layouts
import pytest
import torch
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.clip import encode_text as encoding
from sd2_clip.clip import load_clip
from sd2_clip.clip.encode_options import ENCODE_OPTIONS, EncodeOptions
from sd2_clip.headless.execution.executor import Executor
from sd2_clip.headless.validation.validate import validate
from sd2_clip.headless.workflow import load_workflow, read_prompt
from sd2_clip.sd2.errors import OptionError

TEXT = "a (cat:1.2) and embedding:style"


def test_encode_gives_conditioning_and_a_report(nodes, clip):
    conditioning, report = nodes["EncodeSD2Text"].encode(clip, TEXT)
    ((cond, options),) = conditioning
    tokens = clip.tokenize(TEXT)
    expected, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    torch.testing.assert_close(cond, expected)
    torch.testing.assert_close(options["pooled_output"], pooled)
    assert report.startswith("5 tokens, 1 chunk of 77")
    assert "style (2 vectors)" in report


def test_every_option_is_a_widget_with_its_default():
    widgets = NODE_CLASS_MAPPINGS["EncodeSD2Text"].INPUT_TYPES()["optional"]
    assert list(widgets) == list(ENCODE_OPTIONS)
    defaults = {name: options["default"] for name, (_, options) in widgets.items()}
    assert EncodeOptions(**defaults) == EncodeOptions()
    assert widgets["steps"] == (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": 10_000,
            "tooltip": ENCODE_OPTIONS["steps"].help,
            "advanced": True,
        },
    )
    assert widgets["chunk_split"] == (
        ["tokens", "words"],
        {"default": "tokens", "tooltip": ENCODE_OPTIONS["chunk_split"].help, "advanced": True},
    )


def test_widgets_change_the_encoding(nodes, clip):
    text = "a (cat:1.5) and a dog"
    ((plain, _),), _ = nodes["EncodeSD2Text"].encode(clip, text)
    ((other, _),), _ = nodes["EncodeSD2Text"].encode(clip, text, weight_interpretation="A1111")
    assert not torch.equal(plain, other)


@pytest.mark.parametrize("layer", [-4, -1])
def test_stop_at_clip_layer_is_clip_set_last_layer(layer, nodes, clip):
    ((cond, _),), _ = nodes["EncodeSD2Text"].encode(clip, TEXT, stop_at_clip_layer=layer)
    other = clip.clone()
    other.clip_layer(layer)
    torch.testing.assert_close(cond, other.encode(TEXT))
    assert clip.layer_idx is None  # the handle that came in is as it was


def test_inspect_shows_every_token_in_order(nodes, clip):
    result = nodes["InspectSD2Text"].inspect(clip, TEXT)
    (table,) = result["result"]
    assert result["ui"]["text"] == [table]
    rows = [line.split() for line in table.split("weight  text\n")[1].splitlines()]
    assert [row[3] for row in rows] == [
        "a", "cat", "and", "embedding:style[1/2]", "embedding:style[2/2]"
    ]  # fmt: skip
    assert [row[2] for row in rows] == ["1", "1.2", "1", "1", "1"]


def test_inspect_parses_a1111s_syntax(nodes, clip):
    (table,) = nodes["InspectSD2Text"].inspect(clip, "[cat:dog:0.5] (x:2)", syntax="a1111")[
        "result"
    ]
    assert [line.split()[3] for line in table.splitlines() if line.startswith("    1")] == [
        "cat", "x", "dog", "x"
    ]  # fmt: skip


def test_an_edited_embedding_changes_the_encoders_identity(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["EncodeSD2Text"]
    texts = [TEXT, "a cat", None]
    before = [node.IS_CHANGED(text=text) for text in texts]
    a1111 = node.IS_CHANGED(text="a style", syntax="a1111")
    rows = torch.randn(3, 1024)
    layouts.save_safetensors({"x": rows}, tmp_path / "models/embeddings/style.safetensors")
    after = [node.IS_CHANGED(text=text) for text in texts]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, False]
    assert node.IS_CHANGED(text="a style", syntax="a1111") != a1111  # any word may name one


def test_an_edited_embedding_behind_a_link_is_noticed(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["EncodeSD2Text"]
    (tmp_path / "elsewhere").mkdir()
    layouts.save_safetensors({"x": torch.zeros(2)}, tmp_path / "elsewhere/far.safetensors")
    (tmp_path / "models/embeddings/linked").symlink_to(tmp_path / "elsewhere")
    before = node.IS_CHANGED(text=None)
    layouts.save_safetensors({"x": torch.zeros(3)}, tmp_path / "elsewhere" / "far.safetensors")
    assert node.IS_CHANGED(text=None) != before


def old_prompt():
    """An API workflow that was saved while Encode SD2 Text had the input ``masking``."""
    inputs = {"clip": ["1", 0], "text": "a (cat:0.5)", "chunk_split": "tokens"}
    return {
        "1": {"class_type": "LoadSD2CLIP", "inputs": {"clip_name": "sd2.safetensors"}},
        "2": {"class_type": "EncodeSD2Text", "inputs": inputs | {"masking": "compatible"}},
        "3": {
            "class_type": "SaveSD2Conditioning",
            "inputs": {"conditioning": ["2", 0], "filename_prefix": "old"},
        },
    }


def old_document():
    """The same as the editor saved it, with a widget value more than the node has now."""
    example = Path(__file__).parents[2] / "example_workflows" / "First steps.json"
    document = json.loads(example.read_text(encoding="utf-8"))
    for node in document["nodes"]:
        if node["type"] == "EncodeSD2Text":
            node["widgets_values"].append("compatible")
    return document


def test_an_old_workflow_with_the_input_masking_still_runs(clip, standalone, monkeypatch):
    def load_small(*args, **options):
        return clip

    monkeypatch.setattr(load_clip, "load_clip", load_small)
    validation = validate(read_prompt(old_prompt(), NODE_CLASS_MAPPINGS))
    assert list(validation.lines()) == []
    execution = Executor().execute(validation)
    assert execution.error is None, str(execution.error)
    assert (standalone.output_directory() / "old_00001_.safetensors").exists()


def test_an_old_document_with_the_widget_masking_is_still_converted():
    prompt = load_workflow(old_document(), NODE_CLASS_MAPPINGS).prompt
    [inputs] = [n["inputs"] for n in prompt.values() if n["class_type"] == "EncodeSD2Text"]
    assert (inputs["chunk_split"], inputs["padding"]) == ("tokens", "chunk")
    assert set(inputs) == {"clip", "text", *ENCODE_OPTIONS}


@pytest.mark.parametrize("name", ["EncodeSD2Text", "InspectSD2Text"])
def test_the_editor_is_to_resolve_choices_and_comments(name, nodes):
    _, options = nodes[name].INPUT_TYPES()["required"]["text"]
    assert options["dynamicPrompts"] is True


def test_a_text_that_comes_without_the_editor_is_taken_as_it_is(nodes, clip):
    text = "a {red|green} cat // no dog"
    (table,) = nodes["InspectSD2Text"].inspect(clip, text)["result"]
    words = [line.split()[-1] for line in table.splitlines() if line.startswith("    1")]
    assert words == ["a", "{", "red", "|", "green", "}", "cat", "//", "no", "dog"]
    _, report = nodes["EncodeSD2Text"].encode(clip, text)
    assert "10 tokens" in report


LINES = "a red fox\r\n\n  \na (cat:1.2) and embedding:style\na dog"
PROMPTS = ["a red fox", "a (cat:1.2) and embedding:style", "a dog"]
AS_SINGLE = {"rtol": 1e-4, "atol": 1e-5}


def assert_as_single(nodes, clip, found, prompts, **options):
    conditionings, reports = found
    for conditioning, report, prompt in zip(conditionings, reports, prompts, strict=True):
        ((cond, given),) = conditioning
        ((expected, about),), expected_report = nodes["EncodeSD2Text"].encode(
            clip, prompt, **options
        )
        torch.testing.assert_close(cond, expected, **AS_SINGLE)
        torch.testing.assert_close(given["pooled_output"], about["pooled_output"], **AS_SINGLE)
        assert given["sd2_clip"] == about["sd2_clip"]
        assert report == expected_report


@pytest.mark.parametrize(
    ("texts", "prompts"),
    [
        ([LINES], PROMPTS),
        (PROMPTS, PROMPTS),
        (["a red fox\nin snow", "", "a dog"], ["a red fox\nin snow", "", "a dog"]),
        ([""], [""]),
        (["\n \n"], [""]),
    ],
    ids=["lines", "list", "list with line breaks", "empty", "blank"],
)
def test_a_list_gives_what_encode_sd2_text_gives_for_each_prompt(texts, prompts, nodes, clip):
    found = nodes["EncodeSD2TextList"].encode([clip], texts)
    assert_as_single(nodes, clip, found, prompts)


def test_the_list_has_the_options_of_encode_sd2_text():
    single, several = (
        NODE_CLASS_MAPPINGS[name].INPUT_TYPES() for name in ("EncodeSD2Text", "EncodeSD2TextList")
    )
    assert several["optional"] == single["optional"]
    assert list(several["required"]) == ["clip", "texts"]


def test_options_of_the_list_are_those_of_each_prompt(nodes, clip):
    options = {"weight_interpretation": "A1111", "stop_at_clip_layer": -1}
    given = {name: [value] for name, value in options.items()}
    found = nodes["EncodeSD2TextList"].encode([clip], PROMPTS, **given)
    assert_as_single(nodes, clip, found, PROMPTS, **options)


def test_lists_of_clips_and_options_repeat_their_last_as_in_comfyui(nodes, clip):
    other = clip.clone()
    other.clip_layer(-3)
    layers = {"stop_at_clip_layer": [0, -1]}
    _, reports = nodes["EncodeSD2TextList"].encode([clip, other], PROMPTS, **layers)
    assert [report.splitlines()[-1] for report in reports] == [
        "layer 3 of 4, SD2's default",
        "layer 4 of 4, the very last",
        "layer 4 of 4, the very last",
    ]
    several, _ = nodes["EncodeSD2TextList"].encode([clip], ["a"], stop_at_clip_layer=[-1, -2, -3])
    assert len(several) == 3


def test_a_list_is_encoded_in_batches(nodes, clip, monkeypatch):
    calls = []
    encode = clip.encode_from_tokens_scheduled
    monkeypatch.setattr(
        clip,
        "encode_from_tokens_scheduled",
        lambda tokens: calls.append(len(tokens["h"])) or encode(tokens),
    )
    texts = "\n".join(f"{number} cats" for number in range(40))
    conditionings, _ = nodes["EncodeSD2TextList"].encode([clip], [texts])
    assert (len(conditionings), calls) == (40, [32, 8])


def test_an_empty_list_is_refused_by_name(nodes, clip):
    with pytest.raises(OptionError, match="linked to texts is empty"):
        nodes["EncodeSD2TextList"].encode([clip], [])
    with pytest.raises(OptionError, match="is a int, not a string"):
        nodes["EncodeSD2TextList"].encode([clip], ["a", 3])


def test_an_edited_embedding_changes_the_lists_identity(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["EncodeSD2TextList"]
    texts = [[LINES], ["a cat"], [None], (None,)]
    before = [node.IS_CHANGED(texts=text, syntax=["comfy"]) for text in texts]
    rows = torch.randn(3, 1024)
    layouts.save_safetensors({"x": rows}, tmp_path / "models/embeddings/style.safetensors")
    after = [node.IS_CHANGED(texts=text, clip=(None,)) for text in texts]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, False, False]


def test_what_follows_a_list_runs_once_for_each_prompt(standalone, clip, monkeypatch):
    monkeypatch.setattr(load_clip, "load_clip", lambda *_, **__: clip)
    prompt = {
        "1": {"class_type": "LoadSD2CLIP", "inputs": {"clip_name": "sd2.safetensors"}},
        "2": {"class_type": "EncodeSD2TextList", "inputs": {"clip": ["1", 0], "texts": LINES}},
        "3": {
            "class_type": "SaveSD2Conditioning",
            "inputs": {"conditioning": ["2", 0], "filename_prefix": "list/one"},
        },
        # The reports are three texts, each of them one prompt of several lines.
        "4": {"class_type": "EncodeSD2TextList", "inputs": {"clip": ["1", 0], "texts": ["2", 1]}},
        "5": {
            "class_type": "SaveSD2Conditioning",
            "inputs": {"conditioning": ["4", 0], "filename_prefix": "list/report"},
        },
    }
    validation = validate(read_prompt(prompt, NODE_CLASS_MAPPINGS))
    assert validation.lines() == []
    execution = Executor().execute(validation)
    assert execution.error is None, str(execution.error)
    names = sorted(path.name for path in (standalone.output_directory() / "list").iterdir())
    assert names == [
        f"{kind}_0000{n}_.safetensors" for kind in ("one", "report") for n in (1, 2, 3)
    ]


def test_inspect_compares_with_a_second_text(nodes, clip):
    alone, compared = (
        nodes["InspectSD2Text"].inspect(clip, "a red fox", compare_with=other)["result"][0]
        for other in (" ", "a (red:1.3) fox")
    )
    assert compared.startswith(f"{alone}\n\n")
    rows = [line.split() for line in compared.splitlines() if line.endswith(" red")]
    assert rows[-1][:4] == ["2", "2", "1", "1.3"]
    assert 0 < float(rows[-1][4]) < 1


def test_inspect_without_a_second_text_encodes_nothing(nodes, clip, monkeypatch):
    monkeypatch.setattr(encoding, "encode_texts", None)
    assert nodes["InspectSD2Text"].inspect(clip, "a cat")["result"]


def test_an_edited_embedding_of_the_second_text_is_noticed(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["InspectSD2Text"]
    before = node.IS_CHANGED(text="a cat", compare_with=TEXT)
    rows = torch.randn(3, 1024)
    layouts.save_safetensors({"x": rows}, tmp_path / "models/embeddings/style.safetensors")
    assert node.IS_CHANGED(text="a cat", compare_with=TEXT) != before
