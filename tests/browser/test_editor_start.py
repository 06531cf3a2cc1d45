"""What ``sd2-clip edit`` opens: in a new user's browser, and in another browser later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from browser_models import FIRST, SHORT
from editor_page import EditorPage
from playwright.sync_api import expect

OURS = ["EncodeSD2Text", "InspectSD2Text", "LoadSD2CLIP", "SaveSD2Conditioning"]


@pytest.fixture(scope="module")
def address(
    variant: tuple[str, str | None, bool],
    frontends: dict[str, Path],
    host_in_use: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A server as ``sd2-clip edit`` makes it, with a user folder that is still empty."""
    from editor_server import make_editor, serving
    from sd2_clip import NODE_CLASS_MAPPINGS
    from sd2_clip.cli.edit_command import first_workflow
    from sd2_clip.editor.frontend import find_frontend
    from sd2_clip.nodes.panel_routes import ROUTES

    name, version, _ = variant
    frontend = find_frontend() if version is None else frontends[version]
    user = tmp_path_factory.mktemp(f"start-{name}") / "user"
    editor = make_editor(
        NODE_CLASS_MAPPINGS,
        host_in_use,
        user,
        frontend,
        routes=ROUTES,
        start_workflow=first_workflow,
    )
    with serving(editor) as served:
        yield served


@pytest.mark.every_frontend
def test_first_and_second_start_open_the_first_steps(
    variant: tuple[str, str | None, bool], address: str, browser: Any, shots: Path, tmp_path: Path
) -> None:
    for start in ("first", "second"):  # each with a browser that has seen nothing
        context = browser.new_context(viewport={"width": 1500, "height": 860})
        page = EditorPage(context.new_page(), address, tmp_path, shots, variant[0])
        page.open()
        page.page.wait_for_function("app.graph.nodes.length > 0")
        page.shoot(f"{start}-start")
        types = page.page.evaluate("app.graph.nodes.map((node) => node.type).sort()")
        assert types == OURS
        assert page.widget("LoadSD2CLIP", "clip_name") == SHORT != FIRST
        expect(page.card).to_contain_text("23 of 24 layers")
        expect(page.page.get_by_role("dialog")).to_have_count(0)
        assert page.errors == []
        context.close()
