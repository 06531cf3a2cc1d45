"""The pages for people: what they cite is there."""

import re
from pathlib import Path

import pytest
import room_tables

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


def test_the_architecture_page_describes_every_module():
    """To mend: ``python tests/support/room_tables.py``."""
    page = room_tables.PAGE.read_text(encoding="utf-8")
    assert room_tables.with_room_tables(page) == page
    folders = {path.parent.relative_to(ROOT).as_posix() for path in SOURCES}
    assert folders == set(room_tables.ROOMS)
