"""Translations and help pages match the nodes, the settings and the panels' texts."""

import json
import re
from pathlib import Path

import pytest
from sd2_clip import NODE_CLASS_MAPPINGS

ROOT = Path(__file__).parent.parent
LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
SCRIPTS = {
    path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "js").glob("*.js"))
}
EXTENSION = SCRIPTS["sd2_clip.js"]

# Locale codes of ComfyUI's frontend 1.58, without English: that is what nodes and scripts say.
CHOOSABLE = {"zh", "zh-TW", "ru", "ja", "ko", "fr", "es", "ar", "tr", "pt-BR", "fa", "he", "it"}

COMMENT = re.compile(r"/\*[\s\S]*?\*/|(?<![:\"])//[^\n]*")
LITERAL = re.compile(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`')
INSERTED = re.compile(r"\$\{[^}]*\}")
TWO_WORDS = re.compile(r"[^\W\d_]{2,}\S* \S*[^\W\d_]{2,}")
ELEMENT_TEXT = re.compile(r'element\("\w+", [^,\n]+, ["`]([^"`$]*[^\W\d_][^"`]*)')


def read(language, file):
    return json.loads((ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))


def declared_inputs(node):
    groups = node.INPUT_TYPES()
    return {n: one for g in ("required", "optional") for n, one in groups.get(g, {}).items()}


def english_node(node):
    """What the class says, laid out as a translation."""
    inputs = {
        name: {"name": name, "tooltip": options["tooltip"]}
        for name, (_, options) in declared_inputs(node).items()
    }
    texts = {"display_name": node.TITLE, "description": node.DESCRIPTION, "inputs": inputs}
    if node.RETURN_TYPES:
        names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
        outputs = zip(names, node.OUTPUT_TOOLTIPS, strict=True)
        texts["outputs"] = {
            str(slot): {"name": output, "tooltip": tooltip}
            for slot, (output, tooltip) in enumerate(outputs)
        }
    return texts


def settings_in_script():
    """Id, name and category of each setting that the script registers."""
    block = EXTENSION[EXTENSION.index("settings: [") :]
    ids = dict(re.findall(r'const (\w+) = "(SD2CLIP\.\w+)";', EXTENSION))
    found = re.findall(r'id: (\w+),\s+category: (\[.+\]),\s+name: "(.+)"', block)
    return [(ids[name], text, json.loads(category)) for name, category, text in found]


def english(file):
    """The source of a translation file."""
    if file == "nodeDefs":
        return {name: english_node(node) for name, node in NODE_CLASS_MAPPINGS.items()}
    if file == "settings":
        return {key.replace(".", "_"): {"name": text} for key, text, _ in settings_in_script()}
    categories = dict.fromkeys(one for _, _, category in settings_in_script() for one in category)
    nodes = dict.fromkeys(node.CATEGORY for node in NODE_CLASS_MAPPINGS.values())
    return {
        "nodeCategories": {category: category for category in nodes},
        "settingsCategories": {category: category for category in categories},
    }


def flat(texts, path=()):
    """Path to text, for nested objects."""
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from flat(value, (*path, key))
        else:
            yield (*path, key), value


def translated(language, file):
    """All texts of a file but those of the panels, which tests/js/messages.test.mjs checks."""
    texts = read(language, file)
    if file == "main":
        del texts["SD2CLIP"]
    return dict(flat(texts))


def test_every_language_can_be_chosen_in_the_frontend():
    assert {"es", "fr", "ja", "ko", "pt-BR", "ru", "tr", "zh", "zh-TW"} <= set(LANGUAGES)
    assert set(LANGUAGES) <= CHOOSABLE


@pytest.mark.parametrize("file", ["nodeDefs", "settings", "main"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_all_texts_and_no_other(language, file, standalone):
    assert set(translated(language, file)) == set(dict(flat(english(file))))


@pytest.mark.parametrize("file", ["nodeDefs", "settings"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_is_translated(language, file, standalone):
    source = dict(flat(english(file)))
    for path, text in translated(language, file).items():
        assert text.strip(), path
        if " " in source[path]:
            assert text != source[path], path


@pytest.mark.parametrize("file", ["nodeDefs", "settings", "main"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_has_the_frontends_message_syntax(language, file):
    """Older frontends compile tooltips, newer ones show them raw: no escape suits both."""
    for path, text in translated(language, file).items():
        assert not set("{}|@") & set(text), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_panel_texts_have_placeholders_and_no_other_message_syntax(language):
    """The frontend merges them into its own messages."""
    for path, text in flat(read(language, "main")["SD2CLIP"]):
        assert not set("{}|@") & set(re.sub(r"\{\w+\}", "", text)), path


def test_every_setting_of_the_script_is_found():
    assert len(settings_in_script()) == EXTENSION.count("defaultValue:") > 0


def texts_in(script):
    """The literals that a user would read as English."""
    code = COMMENT.sub("", script)
    literals = [INSERTED.sub("", "".join(found)) for found in LITERAL.findall(code)]
    sentences = [one for one in literals if TWO_WORDS.search(one) and "sd2c-" not in one]
    return sentences + ELEMENT_TEXT.findall(code)


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "messages.js"])
def test_scripts_have_no_texts_of_their_own(script):
    """Panels have their texts in messages.js, settings where they are registered."""
    registered = {text for _, name, category in settings_in_script() for text in (name, *category)}
    assert set(texts_in(SCRIPTS[script])) <= registered


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('say("The file is gone.")', ["The file is gone."]),
        ('element("b", "", "Failed")', ["Failed"]),
        ("throw Error(`no such ${name}`)", ["no such "]),
        ('element("b", "sd2c-bad sd2c-full", heading) // "Not a text"', []),
    ],
    ids=["sentence", "one word in an element", "template", "class names and comments"],
)
def test_texts_in_scripts_are_found(code, found):
    assert texts_in(code) == found


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_help_page_explains_every_input(name):
    page = (ROOT / "js" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    node = NODE_CLASS_MAPPINGS[name]
    assert page.startswith(f"# {node.TITLE}\n")
    for input_name in declared_inputs(node):
        assert f"`{input_name}`" in page


@pytest.mark.parametrize("name", NODE_CLASS_MAPPINGS)
def test_help_page_fits_the_side_panel(name):
    """Tables are wider than it."""
    page = (ROOT / "js" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert not [line for line in page.splitlines() if line.startswith("|")]


def test_there_is_no_help_page_without_a_node():
    pages = {path.stem for path in (ROOT / "js" / "docs").iterdir()}
    assert pages == set(NODE_CLASS_MAPPINGS)


def test_no_error_shows_an_exception_or_bytes_in_pythons_notation():
    """``KeyError('x')`` and ``b'<html>'`` are for programmers."""
    for part in ("cli", "clip", "dataset", "editor", "headless", "host", "nodes", "sd2"):
        for path in (ROOT / part).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\{(?:error|exception|start)\b[^{}]*!r", text), path
