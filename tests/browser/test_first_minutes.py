"""What a new user meets in the first minutes: errors that end, room, defaults and saved widgets."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

pytest.importorskip("playwright")

from browser_models import FIRST, GOOD, SHORT, WRONG
from editor_page import ROOT, example
from playwright.sync_api import expect
from sd2_clip import NODE_CLASS_MAPPINGS

TEMPLATES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
LOADER, ENCODER = "LoadSD2CLIP", "EncodeSD2Text"

every_frontend = pytest.mark.every_frontend


def is_html(page: Any) -> bool:
    return str(page.name).endswith("nodes2")


def refuse(steps: Any, name: str = "gone.safetensors") -> Any:
    """Run with a file that is not there, or a wrong one; the notice that says so."""
    steps.set_widget(LOADER, "clip_name", name)
    expect(steps.card).to_contain_text("Choose instead")
    steps.run()
    notice = steps.notices.filter(has_text="This node cannot run")
    expect(notice).to_be_visible(timeout=30_000)
    steps.page.keyboard.press("Escape")
    return notice


def wait_for_frame(steps: Any, node_type: str, *, red: bool) -> None:
    for _ in range(40):
        if steps.has_red_frame(node_type) is red:
            return
        steps.page.wait_for_timeout(250)
    steps.shoot("red-frame")
    raise AssertionError(f"the frame of {node_type} should {'be' if red else 'not be'} red")


@every_frontend
@pytest.mark.parametrize("name", ["gone.safetensors", WRONG])
def test_choice_from_the_card_ends_the_error(steps: Any, name: str) -> None:
    notice = refuse(steps, name)
    expect(notice).to_contain_text("The reason is above.")
    wait_for_frame(steps, LOADER, red=True)
    steps.shoot("red-frame-before-choice")
    steps.card.get_by_role("button", name=GOOD).click()
    expect(steps.card).to_contain_text("24 of 24 layers")
    expect(notice).to_be_hidden()
    if steps.name.startswith("1.27"):  # this frontend keeps it whatever is chosen, until a run
        steps.run()
        expect(steps.notices.filter(has_text="saved")).to_be_visible(timeout=120_000)
    wait_for_frame(steps, LOADER, red=False)
    steps.shoot("no-frame-after-choice")


def test_missing_file_is_blamed_on_its_name_alone(steps: Any) -> None:
    refuse(steps)
    blamed = steps.page.evaluate(
        """Object.values(app.lastNodeErrors).flatMap(({ errors }) =>
            errors.map((error) => error.extra_info?.input_name))"""
    )
    assert blamed == ["clip_name"]


def test_card_of_a_wrong_file_gives_verdict_then_choice_then_details(
    steps: Any,
) -> None:
    steps.set_widget(LOADER, "clip_name", WRONG)
    parts = steps.card.locator("> *")
    expect(parts).to_have_count(3)
    expect(parts.nth(0)).to_contain_text("Stable Diffusion 1.x")
    expect(parts.nth(1)).to_contain_text("Choose instead:")
    expect(parts.nth(1)).not_to_contain_text("v1-5")
    expect(parts.nth(2)).to_contain_text("768")


@every_frontend
def test_gpu_of_another_machine_runs_and_the_node_says_what_was_done(steps: Any) -> None:
    steps.set_widget(LOADER, "device", "gpu:7")
    steps.run()
    note = steps.notices.filter(has_text="gpu:7")
    expect(note).to_be_visible(timeout=120_000)
    expect(steps.notices.filter(has_text="saved")).to_be_visible(timeout=120_000)
    steps.shoot("device-fallback")
    steps.set_widget("SaveSD2Conditioning", "filename_prefix", "again")
    steps.run()  # the loader's result is cached now
    expect(steps.notices.filter(has_text="again")).to_be_visible(timeout=120_000)
    expect(note).to_be_visible()


def test_23_layers_are_told_as_soon_as_the_card_knows(page: Any) -> None:
    workflow = example("First steps", SHORT)
    for node in workflow["nodes"]:
        if node["type"] == LOADER:
            node["widgets_values"][1] = "last"
    page.load(workflow)
    layers = page.page.locator(".sd2c-layer")
    expect(layers).to_have_text(["layer 23 of 24: layer 24 is not in the file"] * 2)
    colour = "(layer) => getComputedStyle(layer).color"
    warning = layers.first.evaluate(colour)
    page.set_widget(LOADER, "layer", "penultimate")
    expect(layers).to_have_text(["layer 23 of 24 (SD2 default)"] * 2)
    assert layers.first.evaluate(colour) != warning


@every_frontend
def test_loader_that_is_added_takes_a_file_that_it_can_load(page: Any) -> None:
    page.load(example("First steps", GOOD) | {"nodes": [], "links": []})
    page.page.evaluate("app.canvas.ds.reset()")
    page.search_and_add("Load SD2 CLIP", "Load SD2 CLIP", (300, 300))
    listed = page.page.evaluate(
        f"{page.node(LOADER)}.widgets.find((w) => w.name === 'clip_name').options.values"
    )
    assert listed[0] == FIRST
    page.page.wait_for_function(
        f"{page.node(LOADER)}.widgets.find((w) => w.name === 'clip_name').value !== '{FIRST}'"
    )
    assert page.widget(LOADER, "clip_name") == SHORT
    expect(page.card).to_contain_text("23 of 24 layers")


def test_loader_of_a_workflow_keeps_its_file(page: Any) -> None:
    page.load(example("First steps", FIRST))
    expect(page.card).to_contain_text("Stable Diffusion 1.x")
    page.page.wait_for_timeout(500)
    assert page.widget(LOADER, "clip_name") == FIRST


@every_frontend
def test_layer_idx_is_grey_unless_it_is_used(steps: Any) -> None:
    disabled = f"{steps.node(LOADER)}.widgets.find((w) => w.name === 'layer_idx').disabled"
    assert steps.page.evaluate(disabled) is True
    if is_html(steps):
        field = steps.page.locator("input[aria-label=layer_idx], input[name=layer_idx]").first
        if field.count():
            expect(field).to_be_disabled()
    steps.set_widget(LOADER, "layer", "hidden")
    steps.page.wait_for_function(f"{disabled} === false")
    steps.set_widget(LOADER, "layer", "last")
    steps.page.wait_for_function(f"{disabled} === true")
    assert steps.prompt()  # the value is still saved
    assert steps.widget(LOADER, "layer_idx") == -2


@every_frontend
def test_options_that_are_alike_are_labelled_and_saved_as_before(steps: Any) -> None:
    shown = {
        name: steps.page.evaluate(
            f"{steps.node(ENCODER)}.widgets.find((w) => w.name === {name!r})"
            ".options.getOptionLabel('a1111')"
        )
        for name in ("syntax", "weight_interpretation")
    }
    assert shown == {"syntax": "a1111 syntax", "weight_interpretation": "a1111 weights"}
    if is_html(steps):
        expect(steps.page.get_by_text("comfy syntax").first).to_be_visible()
        expect(steps.page.get_by_text("comfy weights")).to_have_count(0)  # behind "advanced"
    [values] = [
        node["widgets_values"]
        for node in steps.page.evaluate("app.graph.serialize()")["nodes"]
        if node["type"] == ENCODER
    ]
    assert values[1:] == ["comfy", "comfy", "none", 0, 0, "tokens", "chunk"]


def overlapping(page: Any) -> list[tuple[str, str]]:
    """The types of nodes of which one covers a part of the other."""
    return [
        (one, other)
        for (one, a), (other, b) in combinations(page.boxes(), 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


@every_frontend
def test_nothing_is_covered_after_a_run(steps: Any) -> None:
    steps.run()
    expect(steps.notices.filter(has_text="astronaut")).to_be_visible(timeout=120_000)
    expect(steps.notices.filter(has_text="saved")).to_be_visible(timeout=120_000)
    steps.page.wait_for_timeout(300)
    steps.shoot("room-after-run")
    assert overlapping(steps) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_node_of_a_template_covers_another(page: Any, name: str) -> None:
    """After a run, of those that need no real weights. Only ComfyUI has core's nodes."""
    workflow = example(name, GOOD)
    types = [node["type"] for node in workflow["nodes"]]
    has_core_nodes = not set(types) <= {"MarkdownNote", *NODE_CLASS_MAPPINGS}
    if has_core_nodes and not page.name.startswith("comfyui"):
        pytest.skip("needs ComfyUI's own nodes")
    page.load(workflow)
    if not has_core_nodes:
        page.run()
        saved = page.notices.filter(has_text="saved")
        expect(saved).to_have_count(types.count("SaveSD2Conditioning"), timeout=120_000)
    page.page.wait_for_timeout(500)
    page.shoot(f"template-{name}")
    assert overlapping(page) == []


@every_frontend
def test_long_prompt_leaves_the_text_eight_lines_and_its_chips_scroll(steps: Any) -> None:
    text = "a castle on a hill, " * 30
    steps.text.fill(text)
    expect(steps.meter().locator(".sd2c-counts")).to_contain_text("3 chunks")
    expect(steps.meter().locator(".sd2c-notes")).to_contain_text("105 tokens spill into chunk 2–3")
    steps.page.wait_for_timeout(300)
    steps.shoot("long-prompt")
    lines = steps.text.evaluate(
        """(area) => {
            const style = getComputedStyle(area);
            const line = parseFloat(style.lineHeight) || 1.2 * parseFloat(style.fontSize);
            const around = parseFloat(style.paddingTop) + parseFloat(style.paddingBottom);
            return (area.clientHeight - around) / line;
        }"""
    )
    assert lines >= 8
    scroll = steps.meter().locator(".sd2c-scroll")
    assert scroll.evaluate("(e) => e.scrollHeight > e.clientHeight + 20")


def test_schedule_of_many_prompts_is_summed_up(steps: Any) -> None:
    steps.set_widget(ENCODER, "syntax", "a1111")
    steps.text.fill("[a|b] fox")
    expect(steps.meter().locator(".sd2c-counts")).to_contain_text("20 prompts")
    expect(steps.meter().locator(".sd2c-when")).to_have_count(3)
    expect(steps.meter().locator(".sd2c-more")).to_have_text("and 17 more prompts")


TEXT = "a lighthouse"
SAVED: dict[str, dict[str, Any]] = {
    "today": {"widgets_values": [TEXT, "a1111", "compel", "mean", -3, 12, "words", "chunk"]},
    "before padding": {"widgets_values": [TEXT, "a1111", "compel", "mean", -3, 12, "words"]},
    "with masking": {
        "widgets_values": [TEXT, "a1111", "compel", "mean", -3, 12, "words", "compatible"]
    },
    "with masking, by name": {
        "widgets_values": [TEXT, "a1111", "compel", "mean", -3, 12, "words", "words"],
        "widgets_values_named": {
            "text": TEXT, "syntax": "a1111", "weight_interpretation": "compel",
            "token_normalization": "mean", "stop_at_clip_layer": -3, "steps": 12,
            "chunk_split": "words", "masking": "words",
        },
    },
}  # fmt: skip


@every_frontend
@pytest.mark.parametrize("saved", SAVED.values(), ids=list(SAVED))
def test_widgets_of_every_version_are_restored(page: Any, saved: dict[str, Any]) -> None:
    workflow = example("First steps", GOOD)
    for node in workflow["nodes"]:
        if node["type"] == ENCODER:
            node.update(saved)
    page.load(workflow)
    [inputs] = [n["inputs"] for n in page.prompt().values() if n["class_type"] == ENCODER]
    del inputs["clip"]
    assert inputs == {
        "text": TEXT, "syntax": "a1111", "weight_interpretation": "compel",
        "token_normalization": "mean", "stop_at_clip_layer": -3, "steps": 12,
        "chunk_split": "words", "padding": "chunk",
    }  # fmt: skip


def test_panel_off_the_screen_does_no_work_until_it_is_seen(steps: Any) -> None:
    asked: list[str] = []
    listener = lambda request: asked.append(request.url)  # noqa: E731
    steps.page.on("request", listener)
    try:
        # Again and again: a page that has just loaded a workflow may still fit it to the view.
        steps.page.wait_for_function(
            """() => {
                app.canvas.ds.offset[0] = -9000;
                app.canvas.setDirty(true, true);
                return document.querySelector("textarea").getBoundingClientRect().right <= 0;
            }"""
        )
        steps.page.wait_for_timeout(300)
        asked.clear()
        steps.set_widget(ENCODER, "syntax", "a1111")
        steps.page.wait_for_timeout(600)
        assert not [url for url in asked if "tokenize" in url]
        with steps.page.expect_request(lambda request: "tokenize" in request.url):
            steps.page.evaluate("app.canvas.ds.offset[0] += 9000; app.canvas.setDirty(true, true)")
    finally:
        steps.page.remove_listener("request", listener)
