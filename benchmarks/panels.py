"""Measures what the panels cost in the editor: frames while panning, and time from key to paint.

    python -m benchmarks.panels

needs Chromium, playwright and the frontend (.ci/browser installs them). 20 Encode SD2 Text, in both
renderers; rounds with the panels switched on and off alternate, and the medians are compared.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NODES = 20
ROUNDS = 5
SETTINGS = ("SD2CLIP.TokenMeter", "SD2CLIP.FileCard")

PAN = """async (seconds) => {
    const { ds } = app.canvas;
    const from = ds.offset[0];
    const start = performance.now();
    let frames = 0;
    while (performance.now() - start < 1000 * seconds) {
        ds.offset[0] = from + 300 * Math.sin((performance.now() - start) / 300);
        app.canvas.setDirty(true, true);
        await new Promise(requestAnimationFrame);
        frames += 1;
    }
    ds.offset[0] = from;
    return frames / seconds;
}"""

TYPE = """async (keys) => {
    const area = document.querySelector("textarea");
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
    const times = [];
    for (let key = 0; key < keys; key += 1) {
        const start = performance.now();
        document.execCommand("insertText", false, "abcdefgh "[key % 9]);
        await new Promise(requestAnimationFrame);
        await new Promise((painted) => setTimeout(painted, 0));
        times.push(performance.now() - start);
        await new Promise((next) => setTimeout(next, 60));
    }
    return times;
}"""


def workflow(clip_name: str) -> dict[str, Any]:
    """One loader and 20 encoders, of which about half are in view."""
    from editor_page import example

    made = example("First steps", clip_name)
    loader, encoder = made["nodes"][:2]
    text = "a castle on a hill, (dramatic:1.2) light, " * 6
    nodes, links = [loader | {"outputs": loader["outputs"]}], []
    for number in range(NODES):
        copy = json.loads(json.dumps(encoder))
        copy |= {"id": 10 + number, "pos": [460 + 450 * (number % 5), 40 + 560 * (number // 5)]}
        copy["inputs"][0]["link"] = number + 1
        copy["outputs"][0]["links"] = None
        copy["widgets_values"][0] = text
        nodes.append(copy)
        links.append([number + 1, loader["id"], 0, copy["id"], 0, "CLIP"])
    loader["outputs"][0]["links"] = [link[0] for link in links]
    return made | {"nodes": nodes, "links": links, "last_node_id": 99, "last_link_id": NODES}


def measure(page: Any) -> dict[str, dict[bool, list[float]]]:
    results: dict[str, dict[bool, list[float]]] = {
        "frames": {True: [], False: []},
        "key": {True: [], False: []},
    }
    for round_number in range(2 * ROUNDS):
        on = round_number % 2 == 0
        for setting in SETTINGS:
            page.evaluate(
                "([name, on]) => app.extensionManager.setting.set(name, on)", [setting, on]
            )
        page.wait_for_timeout(1000)
        results["frames"][on].append(page.evaluate(PAN, 2))
        results["key"][on].append(statistics.median(page.evaluate(TYPE, 20)))
    return results


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from browser_models import GOOD, write_models
    from editor_page import SETTINGS as PAGE_SETTINGS
    from editor_page import EditorPage
    from editor_server import make_editor, serving
    from playwright.sync_api import sync_playwright
    from sd2_clip import NODE_CLASS_MAPPINGS, host
    from sd2_clip.editor.frontend import find_frontend
    from sd2_clip.host.standalone import StandaloneHost
    from sd2_clip.nodes.panel_routes import ROUTES

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        write_models(folder)
        host.use(StandaloneHost([folder], output=folder / "output"))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for is_html in (False, True):
            user = folder / f"user-{is_html}"
            user.mkdir()
            settings = PAGE_SETTINGS | {"Comfy.VueNodes.Enabled": is_html}
            (user / "comfy.settings.json").write_text(json.dumps(settings), encoding="utf-8")
            editor = make_editor(
                NODE_CLASS_MAPPINGS, host.current(), user, find_frontend(), routes=ROUTES
            )
            with serving(editor) as address:
                context = browser.new_context(viewport={"width": 1500, "height": 860})
                page = EditorPage(context.new_page(), address, user, folder, "panels")
                page.open()
                page.load(workflow(GOOD))
                page.page.wait_for_timeout(2000)
                results = measure(page.page)
                context.close()
            frames, key = results["frames"], results["key"]
            median = statistics.median
            print("Nodes 2.0" if is_html else "classic")
            print(f"  frames/s while panning: {median(frames[True]):.1f} with panels, "
                  f"{median(frames[False]):.1f} without: "
                  f"{median(frames[True]) / median(frames[False]):.2f} x")  # fmt: skip
            print(f"  ms from key to paint:   {median(key[True]):.1f} with panels, "
                  f"{median(key[False]):.1f} without: "
                  f"{median(key[True]) / median(key[False]):.2f} x")  # fmt: skip
        browser.close()


if __name__ == "__main__":
    main()
