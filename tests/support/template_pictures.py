"""Makes the pictures of the templates, and that of the README, in a real ComfyUI.

    COMFYUI_DIR=folder COMFYUI_PYTHON=python python tests/support/template_pictures.py [TEMPLATE …]

needs what the browser tests need (.ci/browser installs it). Templates of our nodes alone are run
first, with a checkpoint of random weights (5.2 GB): the picture shows what the nodes then say. Of
the others, which need real weights, it shows the graph.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "example_workflows"
README_PICTURE = ROOT / "docs" / "editor.jpg"

WIDTH, HEIGHT, MARGIN = 960, 600, 16
LEFT, TOP = 120, 120
"""The part of the window that is photographed: beside the frontend's own buttons."""
QUALITY = 80

FIT = """([boxes, left, top, width, height]) => {
    const [x, y] = [0, 1].map((side) => Math.min(...boxes.map((box) => box[side])));
    const [right, bottom] = [2, 3].map((side) => Math.max(...boxes.map((box) => box[side])));
    const scale = Math.min(width / (right - x), height / (bottom - y), 1.25);
    const canvas = app.canvasEl.getBoundingClientRect();
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset[0] = (left + width / 2 - canvas.left) / scale - (x + right) / 2;
    app.canvas.ds.offset[1] = (top + height / 2 - canvas.top) / scale - (y + bottom) / 2;
    app.canvas.setDirty(true, true);
}"""


def write_models(base: Path) -> None:
    """The files that the templates name: a checkpoint of random weights, and an empty LoRA."""
    from layouts import write_sd21
    from node_descriptions import EXAMPLE_FILES

    checkpoint, turbo, lora, *_saved = (base / name for name in EXAMPLE_FILES)
    for path in (checkpoint, lora):
        path.parent.mkdir(parents=True)
    write_sd21(checkpoint)
    turbo.hardlink_to(checkpoint)
    lora.touch()


def photograph(page: Any, target: Path, types: tuple[str, ...] = ()) -> None:
    """Save what the nodes look like, those of *types* alone if there are any."""
    inner = (LEFT + MARGIN, TOP + MARGIN, WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN)
    page.page.mouse.move(1, 1)
    page.page.wait_for_timeout(1500)  # nodes find their sizes, and the page fits them to the window
    boxes = [box for node_type, box in page.boxes() if not types or node_type in types]
    page.page.evaluate(FIT, [boxes, *inner])
    page.page.wait_for_timeout(1500)
    clip = {"x": LEFT, "y": TOP, "width": WIDTH, "height": HEIGHT}
    page.page.screenshot(path=target, clip=clip, type="jpeg", quality=QUALITY)


def main() -> None:
    from comfyui_server import ComfyUI
    from editor_page import SETTINGS, EditorPage
    from playwright.sync_api import expect, sync_playwright
    from sd2_clip import NODE_CLASS_MAPPINGS

    names = sys.argv[1:] or sorted(path.stem for path in TEMPLATES.glob("*.json"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        base = Path(folder)
        write_models(base)
        user = base / "user" / "default"
        user.mkdir(parents=True)
        settings = SETTINGS | {"Comfy.VueNodes.Enabled": True}
        (user / "comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")
        python = os.environ["COMFYUI_PYTHON"]
        server = ComfyUI(Path(os.environ["COMFYUI_DIR"]), base, python=python)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        try:
            tab = browser.new_page(viewport={"width": 1240, "height": 840})
            page = EditorPage(tab, server.address, user, base, "")
            page.open()
            tab.add_style_tag(content=".p-toast { display: none }")
            for name in names:
                workflow = json.loads((TEMPLATES / f"{name}.json").read_text(encoding="utf-8"))
                page.load(workflow)
                types = [node["type"] for node in workflow["nodes"]]
                if set(types) - {"MarkdownNote"} <= set(NODE_CLASS_MAPPINGS):
                    page.run()
                    saved = page.notices.filter(has_text="saved")
                    expect(saved).to_have_count(types.count("SaveSD2Conditioning"), timeout=120_000)
                photograph(page, TEMPLATES / f"{name}.jpg")
                if name == "First steps":
                    photograph(page, README_PICTURE, ("LoadSD2CLIP", "EncodeSD2Text"))
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main()
