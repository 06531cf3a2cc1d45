"""Translations and help pages say what the nodes and settings are, no more and no less."""

import json
import re
from pathlib import Path

import pytest
from sd2_clip import NODE_CLASS_MAPPINGS

ROOT = Path(__file__).parent.parent
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
SCRIPT = (ROOT / "js" / "sd2_clip.js").read_text(encoding="utf-8")

# What the editor's translator would take for syntax; {'|'} is a plain |.
QUOTED = re.compile(r"\{'([{}|@])'\}")

# Lists that depend on the machine; only these values of them have names.
NAMED_CHOICES = {"device": ["auto", "cpu"]}


def read(language, file):
    return json.loads((ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))


def declared_inputs(node):
    groups = node.INPUT_TYPES()
    return {n: one for g in ("required", "optional") for n, one in groups.get(g, {}).items()}


def choices(name, kind, options):
    """The values of a list whose names can be translated: not files."""
    if name in NAMED_CHOICES:
        return NAMED_CHOICES[name]
    return kind if isinstance(kind, list) and "default" in options else []


def english(name, node):
    """What the class says, as a translation would."""
    inputs = {}
    for input_name, (kind, options) in declared_inputs(node).items():
        inputs[input_name] = {"name": input_name, "tooltip": options["tooltip"]}
        if values := choices(input_name, kind, options):
            inputs[input_name]["options"] = {value: value for value in values}
    texts = {"display_name": node.TITLE, "description": node.DESCRIPTION, "inputs": inputs}
    if node.RETURN_TYPES:
        names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
        outputs = zip(names, node.OUTPUT_TOOLTIPS, strict=True)
        texts["outputs"] = {
            str(slot): {"name": output, "tooltip": tooltip}
            for slot, (output, tooltip) in enumerate(outputs)
        }
    return texts


def flat(texts, path=()):
    """Path to text, for nested objects."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield (*path, key), value


def settings_in_script():
    """Id, name and category of each setting that the script registers."""
    block = SCRIPT[SCRIPT.index("settings: [") : SCRIPT.index("setup()")]
    ids = dict(re.findall(r'const (\w+) = "(SD2CLIP\.\w+)";', SCRIPT))
    found = re.findall(r'id: (\w+),\s+category: (\[.+\]),\s+name: "(.+)"', block)
    return [(ids[name], text, json.loads(category)) for name, category, text in found]


def test_there_are_the_languages_that_were_promised():
    assert {"en", "zh", "ja"} <= set(LANGUAGES)


def test_english_is_what_the_nodes_say(standalone):
    said = {name: english(name, node) for name, node in NODE_CLASS_MAPPINGS.items()}
    written = {path: QUOTED.sub(r"\1", text) for path, text in flat(read("en", "nodeDefs"))}
    assert written == dict(flat(said))


@pytest.mark.parametrize("file", ["nodeDefs", "settings", "main"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_texts(language, file):
    assert [path for path, _ in flat(read(language, file))] == [
        path for path, _ in flat(read("en", file))
    ]


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_every_sentence_is_translated(language):
    english_texts = dict(flat(read("en", "nodeDefs"))) | dict(flat(read("en", "settings")))
    for file in ("nodeDefs", "settings"):
        for path, text in flat(read(language, file)):
            assert text.strip(), path
            if " " in english_texts[path]:
                assert text != english_texts[path], path


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_has_the_translators_own_syntax(language):
    for file in ("nodeDefs", "settings", "main"):
        for path, text in flat(read(language, file)):
            assert not set("{}|@") & set(QUOTED.sub("", text)), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_value_can_still_be_recognised(language):
    """Tooltips, messages and saved workflows name values as they are."""
    for (*_, kind, value), text in flat(read(language, "nodeDefs")):
        if kind == "options":
            assert value.lower() in text.lower()


def test_settings_are_those_of_the_script():
    settings = settings_in_script()
    assert len(settings) == SCRIPT.count("defaultValue:") > 0
    assert read("en", "settings") == {
        key.replace(".", "_"): {"name": text} for key, text, _ in settings
    }
    categories = {one for _, _, category in settings for one in category}
    assert set(read("en", "main")["settingsCategories"]) == categories


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_help_page_explains_every_input(name):
    page = (ROOT / "js" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    node = NODE_CLASS_MAPPINGS[name]
    assert page.startswith(f"# {node.TITLE}\n")
    for input_name in declared_inputs(node):
        assert f"`{input_name}`" in page


def test_there_is_no_help_page_without_a_node():
    pages = {path.stem for path in (ROOT / "js" / "docs").iterdir()}
    assert pages == set(NODE_CLASS_MAPPINGS)
