"""The pages for people: what they cite is there."""

import re
from pathlib import Path

import pytest
import room_tables
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.cli import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "js").rglob("*.md")]
    if "node_modules" not in path.parts
)
PACKAGES = ("cli", "clip", "dataset", "editor", "headless", "host", "nodes", "sd2")
URL = re.compile(r"https?://\S+")
SOURCES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    local = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_cited_files_of_ours_exist(page):
    text = page.read_text(encoding="utf-8")
    cited = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests|docs|js|benchmarks)/[\w./-]+)`", text)
    assert [path for path in cited if not (ROOT / path).exists()] == []


def test_docstrings_cite_pages_that_are_here():
    missing = {
        (path.relative_to(ROOT).as_posix(), page)
        for path in SOURCES
        for page in re.findall(r"[\w/-]+\.md\b", URL.sub("", path.read_text(encoding="utf-8")))
        if not ((ROOT / page).exists() or (ROOT / "js" / "docs" / page).exists())
    }
    assert not missing


def test_the_page_on_workflows_lists_every_class_with_its_inputs():
    def names(declared):
        return ", ".join(f"`{name}`" for name in declared)

    page = (ROOT / "docs/workflows.md").read_text(encoding="utf-8")
    rows = page.partition("|---|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    expected = []
    for name, cls in NODE_CLASS_MAPPINGS.items():
        declared = cls.INPUT_TYPES()
        optional = names(declared.get("optional", ()))
        inputs = names(declared["required"]) + (f", [{optional}]" if optional else "")
        outputs = ", ".join(getattr(cls, "RETURN_NAMES", cls.RETURN_TYPES))
        expected.append(f"| `{name}` | {cls.TITLE} | {inputs} | {outputs}{' ' * bool(outputs)}|")
    assert sorted(rows) == sorted(expected)


def test_the_page_on_commands_lists_every_one():
    page = (ROOT / "docs/headless.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `sd2-clip (\w+)", page, re.MULTILINE)) == set(COMMANDS)


def test_the_architecture_page_describes_every_module():
    """To mend: ``python tests/support/room_tables.py``."""
    page = room_tables.PAGE.read_text(encoding="utf-8")
    assert room_tables.with_room_tables(page) == page
    folders = {path.parent.relative_to(ROOT).as_posix() for path in SOURCES}
    assert folders == set(room_tables.ROOMS)
