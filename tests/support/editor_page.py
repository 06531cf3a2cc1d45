"""The editor's page as a user meets it: nodes found, dragged, linked, typed into and run."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, TimeoutError, expect

ROOT = Path(__file__).parent.parent.parent
READY = (
    "window.app?.graph && app.extensionManager && !document.querySelector('#splash-loader')"
    " && app.extensions.some((one) => one.name === 'sd2clip.panels')"
)
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Canvas.NavigationMode": "legacy",
    "Comfy.Locale": "en",
}
OWN_FAULTS = (
    # Of frontend 1.27.10 on settings that were never saved.
    "Cannot read properties of undefined (reading 'id')",
)

expect.set_options(timeout=20_000)  # this machine may have much else to do


def example(name: str, clip_name: str) -> dict[str, Any]:
    """An example workflow with its loader set to a file."""
    path = ROOT / "example_workflows" / f"{name}.json"
    workflow: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for node in workflow["nodes"]:
        if node["type"] == "LoadSD2CLIP":
            node["widgets_values"][0] = clip_name
    return workflow


class EditorPage:
    """One open page of the editor."""

    def __init__(self, page: Page, address: str, user: Path, shots: Path, name: str) -> None:
        self.page = page
        self.address = address
        self.user = user
        self.name = name
        self._shots = shots
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self._record(str(error)))
        page.on("console", lambda m: self._record(m.text) if "sd2clip" in m.text else None)
        # The frontend asks the internet for news; a test must not.
        page.route(
            lambda url: not url.startswith(address) and not url.startswith("data:"),
            lambda route: route.abort(),
        )

    def _record(self, error: str) -> None:
        if not any(fault in error for fault in OWN_FAULTS):
            self.errors.append(error)

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_function(READY, timeout=90_000)

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate(
            """async (workflow) => {
                const active = app.extensionManager.workflow.activeWorkflow;
                await app.loadGraphData(workflow, true, true, active);
            }""",
            workflow,
        )
        self.page.wait_for_function(
            "(count) => app.graph.nodes.length === count", arg=len(workflow["nodes"])
        )
        if workflow["nodes"]:
            self.page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")

    def load_in_new_tab(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate("async (workflow) => { await app.loadGraphData(workflow); }", workflow)

    def shoot(self, what: str) -> None:
        self.page.screenshot(path=self._shots / f"{self.name}-{what}.png")

    # The graph

    def node(self, node_type: str) -> str:
        """A JavaScript expression for the first node of a type."""
        return f"app.graph.nodes.find((one) => one.type === {json.dumps(node_type)})"

    def widget(self, node_type: str, name: str) -> Any:
        found = f"{self.node(node_type)}.widgets.find((w) => w.name === {json.dumps(name)})"
        return self.page.evaluate(f"{found}.value")

    def set_widget(self, node_type: str, name: str, value: Any) -> None:
        self.page.evaluate(
            f"""([name, value]) => {{
                const widget = {self.node(node_type)}.widgets.find((w) => w.name === name);
                widget.value = value;
                widget.callback?.(value);
            }}""",
            [name, value],
        )

    def prompt(self) -> dict[str, Any]:
        prompt: dict[str, Any] = self.page.evaluate(
            "async () => (await app.graphToPrompt()).output"
        )
        return prompt

    # What is seen

    def boxes(self) -> list[tuple[str, tuple[float, float, float, float]]]:
        """The type of each node, and its left, top, right and bottom on the canvas."""
        boxes: list[tuple[str, tuple[float, float, float, float]]] = self.page.evaluate(
            """() => app.graph.nodes.map((node) => {
                const drawn = document.querySelector(`[data-node-id="${node.id}"]`);
                const shown = drawn?.getBoundingClientRect();
                const [width, height] = shown
                    ? [shown.width / app.canvas.ds.scale, shown.height / app.canvas.ds.scale]
                    : [node.size[0], node.size[1] + 30];
                const [left, top] = [node.pos[0], node.pos[1] - 30];
                return [node.type, [left, top, left + width, top + height]];
            })"""
        )
        return boxes

    def has_red_frame(self, node_type: str) -> bool:
        """Whether a red line runs along the left border of a node."""
        left, top, _, bottom = dict(self.boxes())[node_type]
        x, y = self.on_screen(f"[{left}, {top}]")
        _, end = self.on_screen(f"[{left}, {bottom}]")
        strip = {"x": x - 12, "y": y + 20, "width": 20, "height": end - y - 40}
        shot = base64.b64encode(self.page.screenshot(clip=strip)).decode()
        red: int = self.page.evaluate(
            """async (shot) => {
                const bytes = Uint8Array.from(atob(shot), (one) => one.charCodeAt(0));
                const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
                const drawn = new OffscreenCanvas(image.width, image.height).getContext("2d");
                drawn.drawImage(image, 0, 0);
                const { data } = drawn.getImageData(0, 0, image.width, image.height);
                let rows = 0;
                for (let y = 0; y < image.height; y += 1) {
                    for (let x = 0; x < image.width; x += 1) {
                        const [r, g, b] = data.slice(4 * (y * image.width + x));
                        if (r > 80 && r > 2 * g && r > 2 * b) { rows += 1; break; }
                    }
                }
                return rows / image.height;
            }""",
            shot,
        )
        return red > 0.8

    # The mouse

    def on_screen(self, position: str) -> tuple[float, float]:
        """Where an expression for a canvas position is seen."""
        x, y = self.page.evaluate(
            f"""() => {{
                const [x, y] = {position};
                const {{ offset, scale }} = app.canvas.ds;
                const box = app.canvasEl.getBoundingClientRect();
                return [(x + offset[0]) * scale + box.left, (y + offset[1]) * scale + box.top];
            }}"""
        )
        return x, y

    def title_position(self, node_type: str) -> tuple[float, float]:
        return self.on_screen(f"(() => {{ const n = {self.node(node_type)};"
                              " return [n.pos[0] + 90, n.pos[1] - 14]; })()")  # fmt: skip

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        mouse = self.page.mouse
        mouse.move(*start)
        mouse.down()
        mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, steps=5)
        mouse.move(*end, steps=5)
        mouse.up()

    def search_and_add(self, text: str, expected: str, place: tuple[float, float]) -> None:
        """Add a node by the search box, as a double click on the canvas opens it."""
        before = self.page.evaluate("app.graph.nodes.length")
        box = self.page.locator(
            ".node-search-box input, .comfy-vue-node-search-container input, "
            "[data-testid=node-search-input], [role=dialog] input"
        ).first
        for _ in range(5):  # a page that has just opened may miss the first double click
            self.page.mouse.dblclick(*place)
            with suppress(TimeoutError):
                box.wait_for(timeout=5_000)
                break
        box.fill(text)
        self.page.get_by_role("option").filter(has_text=expected).first.wait_for()
        box.press("Enter")
        expect(self.page.get_by_role("option")).to_have_count(0)
        self.page.wait_for_function("(before) => app.graph.nodes.length === before + 1", arg=before)
        # Newer frontends let the node hang on the pointer until a click.
        self.page.mouse.move(*place)
        if self.page.evaluate("Boolean(app.canvas.state?.ghostNodeId ?? app.canvas.ghostNode)"):
            self.page.mouse.click(*place)

    # The text and its meter

    @property
    def text(self) -> Any:
        return self.page.locator("textarea").first

    def meter(self, index: int = 0) -> Any:
        return self.page.locator(".sd2c-meter").nth(index)

    def expect_counts(self, text: str) -> None:
        expect(self.meter().locator(".sd2c-counts")).to_have_text(text)
        expect(self.meter()).not_to_have_class("sd2c-meter sd2c-stale")

    @property
    def card(self) -> Any:
        return self.page.locator(".sd2c-card")

    @property
    def notices(self) -> Any:
        return self.page.locator(".sd2c-notice:not([hidden])")

    def run(self) -> None:
        self.page.locator(
            "[data-testid=queue-button], .actionbar-container .p-splitbutton-button"
        ).first.click()
