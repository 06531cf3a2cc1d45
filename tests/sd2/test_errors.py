"""Lists in messages stay short."""

import re
from pathlib import Path

import pytest
from sd2_clip.sd2.errors import and_more, plain_text

ROOT = Path(__file__).parents[2]
HINT = re.compile(r"""how_to_install\(['"](.+?)['"], ['"](\w+)['"]\)""")


@pytest.mark.parametrize(
    ("items", "text"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more"),
     (dict.fromkeys("abcd"), "a, b and 2 more")],
)  # fmt: skip
def test_the_first_few_are_listed_and_the_rest_counted(items, text):
    assert and_more(items, 2) == text


def test_long_messages_are_cut_before_their_characters_are_escaped():
    text = plain_text("\x1b" * 5_000, 100)
    assert len(text) == 100
    assert text.endswith(" … (5,000 characters)")
    assert plain_text("a\x1bb", 100) == r"a\x1bb"


def test_every_extra_that_a_hint_names_installs_the_package_that_it_names():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    hints = {
        (package.strip("'\""), extra)
        for part in ("cli", "dataset", "editor")
        for path in (ROOT / part).rglob("*.py")
        for package, extra in HINT.findall(path.read_text(encoding="utf-8"))
    }
    assert hints
    for packages, extra in hints:
        listed = re.search(rf"^{extra} = \[(.*)\]", project, re.MULTILINE)
        assert listed is not None, extra
        for package in packages.split():
            assert f'"{package}>=' in listed[1]
