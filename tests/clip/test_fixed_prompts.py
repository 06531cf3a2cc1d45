"""The presets of sd2-clip prompt, beside the page that describes them."""

import re
from pathlib import Path

import pytest
from sd2_clip.clip.encode_options import EncodeOptions
from sd2_clip.clip.fixed_prompts import PRESETS

PAGE = (Path(__file__).parents[2] / "docs/bridges.md").read_text(encoding="utf-8")
ROWS = {
    line.split("|")[1].strip().strip("`"): line for line in PAGE.splitlines() if line[:3] == "| `"
}


def test_the_page_has_a_row_for_each_preset():
    assert list(PRESETS) == [name for name in ROWS if name in PRESETS]


@pytest.mark.parametrize("name", PRESETS)
def test_the_row_has_keys_shapes_dtype_and_source(name):
    preset, row = PRESETS[name], ROWS[name]
    assert all(f"`{prompt.key}`" in row for prompt in preset.prompts)
    lengths = {2 if prompt.padding == "none" else 77 for prompt in preset.prompts}
    assert {int(rows) for rows in re.findall(r"\[1, (\d+), 1024\]", row)} == lengths
    assert f"| {preset.dtype} |" in row
    assert f"({preset.source})" in row


@pytest.mark.parametrize("name", PRESETS)
def test_sources_are_at_a_commit(name):
    assert re.match(r"https://github\.com/[\w.-]+/[\w.-]+/blob/[0-9a-f]{40}/", PRESETS[name].source)


@pytest.mark.parametrize("name", PRESETS)
def test_keys_are_distinct_and_options_valid(name):
    prompts = PRESETS[name].prompts
    assert len({prompt.key for prompt in prompts}) == len(prompts)
    assert all(EncodeOptions(padding=prompt.padding) for prompt in prompts)
    assert len(prompts) == 1 or not PRESETS[name].is_bare
