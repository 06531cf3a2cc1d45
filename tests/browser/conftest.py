"""One Chromium, one set of models and one server per frontend, for all browser tests.

Frontends: the installed comfyui-frontend-package, drawn on a canvas and as HTML ("Nodes 2.0"), and
every version unpacked under ``build/frontends/<version>`` (see ``.ci/browser``), on a canvas and,
where that version has them, as HTML. Tests of the older ones run nightly, but for those marked
``every_frontend``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SHOTS = ROOT / "build" / "screenshots"


def missing() -> str | None:
    """Why browser tests cannot run here."""
    for module, package in (
        ("playwright", "playwright"),
        ("aiohttp", "aiohttp"),
        ("comfyui_frontend_package", "comfyui-frontend-package"),
    ):
        if util.find_spec(module) is None:
            return f"{package} is not installed (.ci/browser installs it)"
    if chromium() is None:
        return "there is no Chromium (.ci/browser installs it)"
    return None


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def old_frontends() -> dict[str, Path]:
    folders = sorted((ROOT / "build" / "frontends").glob("*/comfyui_frontend_package/static"))
    return {folder.parent.parent.name: folder for folder in folders}


COMFYUI = "comfyui"
"""In place of a version: the frontend of a real ComfyUI, COMFYUI_DIR run by COMFYUI_PYTHON. Where
the one that it asks for is unpacked, it is served in place of the one that is installed."""
TESTED_IN_COMFYUI = "test_first_minutes"

FIRST_WITH_NODES_2 = (1, 40)
"""Frontends before it have an early form of it, which we do not test."""


def variants() -> list[tuple[str, str | None, bool]]:
    """Name, version (None: the installed one), and whether nodes are drawn as HTML."""
    found: list[tuple[str, str | None, bool]] = [
        ("newest-classic", None, False),
        ("newest-nodes2", None, True),
    ]
    for version in old_frontends():
        found.append((f"{version}-classic", version, False))
        if tuple(map(int, version.split(".")[:2])) >= FIRST_WITH_NODES_2:
            found.append((f"{version}-nodes2", version, True))
    if os.environ.get("COMFYUI_DIR") and os.environ.get("COMFYUI_PYTHON"):
        found += [("comfyui-classic", COMFYUI, False), ("comfyui-nodes2", COMFYUI, True)]
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in list(items):
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)
            variant = getattr(item, "callspec", None) and item.callspec.params.get("variant")
            is_older = variant is not None and variant[1] is not None
            if variant is not None and variant[1] == COMFYUI:
                item.add_marker(pytest.mark.nightly)
                if item.path.stem != TESTED_IN_COMFYUI:
                    items.remove(item)
            elif is_older and item.get_closest_marker("every_frontend") is None:
                item.add_marker(pytest.mark.nightly)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from browser_models import write_models

    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="session")
def host_in_use(models: Path, output: Path) -> Iterator[Any]:
    from sd2_clip import host
    from sd2_clip.host.standalone import StandaloneHost

    before = host.current()
    host.use(StandaloneHost([models], output=output, input=output.parent / "input"))
    yield host.current()
    host.use(before)


@pytest.fixture(scope="session")
def frontends() -> dict[str, Path]:
    """The older frontends by version."""
    return old_frontends()


@pytest.fixture(scope="session")
def shots() -> Path:
    """The folder for screenshots."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    return SHOTS


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session", params=variants(), ids=lambda variant: variant[0])
def variant(request: pytest.FixtureRequest) -> tuple[str, str | None, bool]:
    chosen: tuple[str, str | None, bool] = request.param
    return chosen


@pytest.fixture(scope="session")
def opened(
    variant: tuple[str, str | None, bool],
    browser: Any,
    host_in_use: Any,
    shots: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """The editor in one variant, opened once for all tests of it."""
    from editor_page import SETTINGS, EditorPage
    from editor_server import make_editor, serving
    from sd2_clip import NODE_CLASS_MAPPINGS
    from sd2_clip.editor.frontend import find_frontend
    from sd2_clip.nodes.panel_routes import ROUTES

    name, version, is_html = variant
    if version == COMFYUI:
        with _real_comfyui(name, is_html, browser, shots, tmp_path_factory) as page:
            yield page
        return
    frontend = find_frontend() if version is None else old_frontends()[version]
    user = tmp_path_factory.mktemp(f"user-{name}")
    settings = SETTINGS | {"Comfy.VueNodes.Enabled": is_html}
    (user / "comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")
    editor = make_editor(NODE_CLASS_MAPPINGS, host_in_use, user, frontend, routes=ROUTES)
    with ExitStack() as stack:
        address = stack.enter_context(serving(editor))
        context = browser.new_context(viewport={"width": 1500, "height": 860})
        stack.callback(context.close)
        page = EditorPage(context.new_page(), address, user, shots, name)
        page.open()
        yield page


@contextmanager
def _real_comfyui(
    name: str,
    is_html: bool,
    browser: Any,
    shots: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """The page of a real ComfyUI with the same models."""
    from browser_models import write_models
    from comfyui_server import ComfyUI, frontend_flags
    from editor_page import SETTINGS, EditorPage

    base = tmp_path_factory.mktemp(name)
    (base / "models").mkdir()
    write_models(base / "models")
    user = base / "user" / "default"
    user.mkdir(parents=True)
    settings = SETTINGS | {"Comfy.VueNodes.Enabled": is_html}
    (user / "comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")
    installation = Path(os.environ["COMFYUI_DIR"])
    flags = frontend_flags(installation, old_frontends())
    server = ComfyUI(installation, base, *flags, python=os.environ["COMFYUI_PYTHON"])
    context = browser.new_context(viewport={"width": 1500, "height": 860})
    try:
        page = EditorPage(context.new_page(), server.address, user, shots, name)
        page.open()
        yield page
    finally:
        context.close()
        server.stop()


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """The open editor; the test fails if a script of the page does."""
    opened.errors.clear()
    yield opened
    opened.page.keyboard.press("Escape")  # a dialog that the test has left open
    assert opened.errors == []


@pytest.fixture
def steps(page: Any) -> Any:
    """The page with the first example workflow."""
    from browser_models import GOOD
    from editor_page import example

    page.load(example("First steps", GOOD))
    page.expect_counts("8 of 75 · 1 chunk")
    return page
