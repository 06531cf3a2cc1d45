"""The editor as a user meets it, in the real frontend and a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright")

from browser_models import GOOD, SHORT, WRONG
from editor_page import READY, example
from playwright.sync_api import expect

PANEL = "sd2_clip_panel"
EMPTY: dict[str, Any] = {
    "last_node_id": 0,
    "last_link_id": 0,
    "nodes": [],
    "links": [],
    "groups": [],
    "config": {},
    "extra": {},
    "version": 0.4,
}


def test_nodes_are_found_added_moved_and_linked_by_mouse(page: Any) -> None:
    page.load(EMPTY)
    page.page.evaluate("app.canvas.ds.reset()")
    page.search_and_add("Load SD2 CLIP", "Load SD2 CLIP", (300, 300))
    page.search_and_add("Encode SD2", "Encode SD2 Text", (820, 300))

    before = page.page.evaluate(f"{page.node('EncodeSD2Text')}.pos[0]")
    start = page.title_position("EncodeSD2Text")
    page.drag(start, (start[0] + 120, start[1] + 60))
    assert page.page.evaluate(f"{page.node('EncodeSD2Text')}.pos[0]") > before + 80

    source = page.on_screen(f"{page.node('LoadSD2CLIP')}.getConnectionPos(false, 0)")
    target = page.on_screen(f"{page.node('EncodeSD2Text')}.getConnectionPos(true, 0)")
    page.drag(source, target)
    page.shoot("added-and-linked")
    loader = page.page.evaluate(f"String({page.node('LoadSD2CLIP')}.id)")
    [encoder] = [n for n in page.prompt().values() if n["class_type"] == "EncodeSD2Text"]
    assert encoder["inputs"]["clip"] == [loader, 0]


def test_meter_follows_the_text_as_it_is_typed(steps: Any) -> None:
    steps.text.click()
    steps.text.press("Control+a")
    steps.text.press_sequentially("a (red:1.4) fox in [snow], (blurry:0.5) supercalifragilistic")
    steps.expect_counts("13 of 75 · 1 chunk")
    weighted = steps.meter().locator(".sd2c-weighted")
    expect(weighted).to_have_text(["red1.4", "blurry0.5"])
    colours = [
        weighted.nth(i).evaluate("(e) => getComputedStyle(e).backgroundColor") for i in (0, 1)
    ]
    assert len(set(colours)) == 2
    expect(steps.text).to_be_focused()
    steps.shoot("typed")
    typed = "a (red:1.4) fox in [snow], (blurry:0.5) supercalifragilistic"
    assert steps.widget("EncodeSD2Text", "text") == typed


def test_meter_shows_what_spills_into_the_next_chunk(steps: Any) -> None:
    steps.text.fill("a castle on a hill, " * 14 + "embedding:style-oil")
    expect(steps.meter().locator(".sd2c-counts")).to_contain_text("2 chunks")
    expect(steps.meter().locator(".sd2c-border")).to_have_text("chunk 2 · 13 of 75")
    expect(steps.meter().locator(".sd2c-notes")).to_contain_text("13 tokens spill into chunk 2")
    expect(steps.meter().locator(".sd2c-embedding")).to_have_text("style-oil×4")
    steps.shoot("two-chunks")


def test_unknown_embedding_is_marked(steps: Any) -> None:
    steps.text.fill("a fox, embedding:nowhere")
    expect(steps.meter().locator(".sd2c-notes .sd2c-bad")).to_contain_text("embedding:nowhere")
    steps.shoot("unknown-embedding")


def test_meter_reads_the_text_in_the_node_s_syntax(steps: Any) -> None:
    steps.set_widget("EncodeSD2Text", "syntax", "a1111")
    steps.text.fill("a [red:blue:0.5] fox, ((big))")
    expect(steps.meter().locator(".sd2c-when")).to_have_text(["0 to 0.5", "0.5 to 1"])
    expect(steps.meter().locator(".sd2c-weighted").first).to_have_text("big1.21")
    steps.shoot("a1111")


def test_embedding_name_is_completed_with_tab(steps: Any) -> None:
    steps.text.fill("")
    steps.text.press_sequentially("a fox, embedding:sty")
    offers = steps.page.locator(".sd2c-suggestion")
    expect(offers).to_have_count(3)
    steps.shoot("completion")
    steps.text.press("ArrowDown")
    steps.text.press("Tab")
    expect(steps.text).to_have_value("a fox, embedding:style-oil")
    expect(offers.first).to_be_hidden()
    expect(steps.text).to_be_focused()
    assert steps.widget("EncodeSD2Text", "text") == "a fox, embedding:style-oil"


def test_layer_is_shown_in_absolute_terms(steps: Any) -> None:
    layer = steps.meter().locator(".sd2c-layer")
    expect(layer).to_have_text("layer 23 of 24 (SD2 default)")
    steps.set_widget("LoadSD2CLIP", "layer", "last")
    expect(layer).to_have_text("layer 24 of 24")
    steps.set_widget("EncodeSD2Text", "stop_at_clip_layer", -5)
    expect(layer).to_have_text("layer 20 of 24")


def test_card_says_what_the_file_holds(steps: Any) -> None:
    expect(steps.card).to_contain_text("Stable Diffusion 2.x")
    expect(steps.card).to_contain_text("24 of 24 layers · F16 · 708 MB")


def test_card_names_a_wrong_file_and_offers_good_ones(steps: Any) -> None:
    steps.set_widget("LoadSD2CLIP", "clip_name", WRONG)
    expect(steps.card).to_have_class(re.compile("sd2c-wrong"))
    expect(steps.card).to_contain_text("Stable Diffusion 1.x")
    steps.shoot("wrong-file")
    steps.card.get_by_role("button", name=GOOD).click()
    expect(steps.card).to_contain_text("24 of 24 layers")
    assert steps.widget("LoadSD2CLIP", "clip_name") == GOOD


def test_card_warns_of_the_last_layer_of_a_short_file(steps: Any) -> None:
    steps.set_widget("LoadSD2CLIP", "clip_name", SHORT)
    expect(steps.card).to_contain_text("23 of 24 layers")
    expect(steps.card.locator(".sd2c-warning")).to_have_count(0)
    steps.set_widget("LoadSD2CLIP", "layer", "last")
    expect(steps.card.locator(".sd2c-warning")).to_contain_text("penultimate")
    expect(steps.meter().locator(".sd2c-layer")).to_have_text(
        "layer 23 of 24: layer 24 is not in the file"
    )
    steps.shoot("short-file-last-layer")


def test_run_shows_its_results_on_the_nodes(steps: Any, output: Path) -> None:
    saved = set(output.rglob("*.safetensors"))
    steps.set_widget("SaveSD2Conditioning", "filename_prefix", f"run/{steps.name}")
    steps.run()
    expect(steps.notices.filter(has_text="astronaut")).to_be_visible(timeout=120_000)
    expect(steps.notices.filter(has_text="saved")).to_be_visible(timeout=120_000)
    steps.shoot("after-run")
    assert set(output.rglob("*.safetensors")) - saved


def test_failure_of_a_run_is_told_on_its_node(steps: Any) -> None:
    steps.set_widget("EncodeSD2Text", "padding", "none")
    steps.text.fill("a castle on a hill, " * 20)
    steps.run()
    failed = steps.notices.filter(has_text="This node failed")
    expect(failed).to_be_visible(timeout=120_000)
    expect(failed).to_contain_text("2 chunks")
    steps.shoot("failed-run")
    steps.page.keyboard.press("Escape")


def test_refused_prompt_is_told_on_its_node(steps: Any) -> None:
    steps.set_widget("LoadSD2CLIP", "clip_name", "gone.safetensors")
    steps.run()
    refused = steps.notices.filter(has_text="This node cannot run")
    expect(refused).to_be_visible(timeout=30_000)
    expect(steps.card).to_contain_text("gone.safetensors")
    steps.shoot("refused-run")
    steps.page.keyboard.press("Escape")
    steps.set_widget("LoadSD2CLIP", "clip_name", WRONG)
    expect(steps.card).to_contain_text("Stable Diffusion 1.x")
    steps.run()
    expect(refused).to_contain_text("The reason is above.", timeout=30_000)
    expect(refused).not_to_contain_text("Stable Diffusion 1.x")  # told once
    steps.page.keyboard.press("Escape")


def test_panels_leave_no_trace_in_workflow_and_prompt(steps: Any) -> None:
    saved = steps.page.evaluate("app.graph.serialize()")
    values = {node["type"]: node["widgets_values"] for node in saved["nodes"]}
    assert values["LoadSD2CLIP"] == [GOOD, "penultimate", -2, "auto", "auto"]
    assert values["SaveSD2Conditioning"] == ["conditioning/sd2"]
    assert PANEL not in json.dumps(saved)
    assert PANEL not in json.dumps(steps.prompt())


def test_meter_can_be_switched_off(steps: Any) -> None:
    set_it = "(value) => app.extensionManager.setting.set('SD2CLIP.TokenMeter', value)"
    steps.page.evaluate(set_it, False)
    try:
        expect(steps.meter()).to_be_hidden()
    finally:
        steps.page.evaluate(set_it, True)
    expect(steps.meter()).to_be_visible()


def test_panels_are_readable_in_the_light_theme(steps: Any) -> None:
    set_it = "(value) => app.extensionManager.setting.set('Comfy.ColorPalette', value)"
    steps.page.evaluate(set_it, "light")
    try:
        steps.text.fill("a (red:1.4) fox, (blurry:0.5), embedding:style-oil, embedding:nowhere")
        expect(steps.meter().locator(".sd2c-bad")).to_be_visible()
        steps.shoot("light-theme")
        colour = steps.meter().evaluate("(e) => getComputedStyle(e).color")
        assert sum(map(int, re.findall(r"\d+", colour)[:3])) < 380, f"{colour} is light on light"
    finally:
        steps.page.evaluate(set_it, "dark")


def test_workflow_dropped_as_a_file_is_opened(page: Any) -> None:
    page.load(EMPTY)
    page.page.evaluate(
        """(text) => {
            const carried = new DataTransfer();
            carried.items.add(new File([text], "dropped.json", { type: "application/json" }));
            const place = { clientX: 700, clientY: 400, bubbles: true, cancelable: true };
            const event = new DragEvent("drop", { ...place, dataTransfer: carried });
            app.canvasEl.dispatchEvent(event);
        }""",
        json.dumps(example("First steps", GOOD)),
    )
    page.page.wait_for_function("app.graph.nodes.length === 4")
    page.expect_counts("8 of 75 · 1 chunk")


def test_workflow_is_saved_reopened_after_reload_and_run_again(page: Any) -> None:
    page.load_in_new_tab(example("First steps", GOOD))
    page.expect_counts("8 of 75 · 1 chunk")
    page.text.click()
    page.text.press("Control+a")
    page.text.press_sequentially("a lighthouse at night")  # the frontend follows real keys
    page.expect_counts("4 of 75 · 1 chunk")
    page.page.mouse.click(40, 560)
    page.page.keyboard.press("Control+s")
    name = page.page.locator("[role=dialog] input, .p-dialog input").first
    name.fill("lighthouse")
    page.shoot("save-dialog")
    with page.page.expect_response(
        lambda response: "/userdata/" in response.url and response.request.method == "POST"
    ):
        name.press("Enter")
    file = page.user / "workflows" / "lighthouse.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert "a lighthouse at night" in json.dumps(saved)

    page.page.reload()
    page.page.wait_for_function(READY, timeout=90_000)
    # Not the first: the order of the nodes' elements in the page is the frontend's to choose.
    lighthouse = page.page.locator(".sd2c-counts").filter(has_text="4 of 75")
    expect(lighthouse).to_be_visible()  # the page comes back as it was
    page.page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    expect(page.meter()).to_have_count(0)
    page.page.wait_for_function(
        "!app.extensionManager.workflow.activeWorkflow.path.includes('lighthouse')"
    )
    page.page.evaluate("app.extensionManager.sidebarTab.toggleSidebarTab('workflows')")
    page.page.locator(".side-bar-panel, .workflows-sidebar-tab").get_by_text(
        "lighthouse"
    ).first.click()
    expect(lighthouse).to_be_visible()
    page.run()
    expect(page.notices.filter(has_text="saved")).to_be_visible(timeout=120_000)


def test_help_page_of_a_node_is_shown(steps: Any) -> None:
    steps.page.mouse.click(*steps.title_position("EncodeSD2Text"))
    with steps.page.expect_response(re.compile(r"/docs/EncodeSD2Text\.md")) as response:
        steps.page.get_by_test_id("info-button").click()
    assert response.value.ok


@pytest.mark.parametrize(("locale", "chunk"), [("ko", "청크 1개"), ("zh-TW", "1 個分塊")])
def test_panels_have_the_language_of_the_frontend(steps: Any, locale: str, chunk: str) -> None:
    choose = "(locale) => app.extensionManager.setting.set('Comfy.Locale', locale)"
    steps.page.evaluate(choose, locale)
    try:
        steps.page.reload()
        steps.page.wait_for_function(READY, timeout=90_000)
        steps.load(example("First steps", GOOD))
        expect(steps.meter().locator(".sd2c-counts")).to_contain_text(chunk)
        steps.set_widget("LoadSD2CLIP", "clip_name", WRONG)
        expect(steps.card.locator(".sd2c-alternatives")).to_be_visible()
        expect(steps.card).not_to_contain_text("Choose instead")
        steps.shoot(f"language-{locale}")
    finally:
        steps.page.evaluate(choose, "en")
        steps.page.reload()
        steps.page.wait_for_function(READY, timeout=90_000)
