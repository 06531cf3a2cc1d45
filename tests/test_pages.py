"""Every command and snippet of README.md and docs/ as it is printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import layouts
import pytest
import sd2_clip
import torch
from model_shapes import SD2_CONFIG
from sd2_clip import cli
from sd2_clip.clip import load_clip as load_clip_module
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.detect import detect

ROOT = Path(__file__).parent.parent
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

CHECKPOINTS = ("v2-1_768-ema-pruned.safetensors", "v2-1_768-ema-pruned.ckpt", "768-v-ema.ckpt")


def blocks(page: str, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGES[page]) if found == language]


def commands() -> list[str]:
    """The lines of the shell blocks."""
    return [line for page in PAGES for text in blocks(page, "") for line in text.splitlines()]


OURS = sorted({line for line in commands() if line.startswith("sd2-clip ")})
INSTALL = sorted({line for line in commands() if "pip install" in line})
MAKE = sorted({line.split("#")[0].strip() for line in commands() if line.startswith("make ")})


def test_no_line_needs_a_certain_shell() -> None:
    for line in commands():
        assert not re.search(r"&&|'|\\$|^\$ ", line.split("  #")[0]), line


@pytest.mark.parametrize("line", OURS)
def test_command_line_is_understood(line: str) -> None:
    words = shlex.split(line)[1:]
    assert cli.build_parser(words[0]).parse_args(words)


@pytest.mark.parametrize("line", MAKE)
def test_make_has_the_target(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in (word for word in line.split()[1:] if "=" not in word):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), line


def test_extras_that_pages_install_exist() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = {name for page in PAGES.values() for name in re.findall(r'"\.\[(\w+)\]"', page)}
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert extras
    assert INSTALL


@pytest.fixture
def small_files(standalone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that snippets name, with tiny encoders, and functions that expect their size."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "models/checkpoints"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in CHECKPOINTS:
            write = torch.save if name.endswith(".ckpt") else layouts.save_safetensors
            write(layouts.canonical_encoder(), folder / name)
    (tmp_path / "embeddings").mkdir(exist_ok=True)
    (tmp_path / "workflow.json").write_text(smallest_workflow(), encoding="utf-8")
    sizes = {"clip_h_model_config": layouts.TINY_CONFIG}
    small = partial(load_clip_module.load_clip, model_options=sizes)
    monkeypatch.setattr(load_clip_module, "load_clip", small)
    monkeypatch.setattr(sd2_clip, "load_clip", small, raising=False)
    config = load_config(layouts.TINY_CONFIG)
    monkeypatch.setattr(sd2_clip, "detect", partial(detect, config=config), raising=False)
    return tmp_path


def smallest_workflow() -> str:
    [text] = blocks("docs/workflows.md", "json")
    assert json.loads(text)
    return text


@pytest.mark.parametrize("page", ["README.md", "docs/library.md", "docs/headless.md"])
def test_snippets_run_as_printed(page: str, small_files: Path) -> None:
    from sd2_clip import host

    before = host.current()
    names: dict[str, object] = {}
    try:
        for text in blocks(page, "python"):
            exec(compile(text, page, "exec"), names)
    finally:
        host.use(before)
    assert {"clip", "cond"} <= set(names) or names["execution"].error is None  # type: ignore[attr-defined]


@pytest.mark.nightly
@pytest.mark.full_size
def test_commands_run_as_printed(tmp_path: Path) -> None:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    encoder = layouts.canonical_encoder(SD2_CONFIG, dtype=torch.float16)
    layouts.save_safetensors(encoder, tmp_path / CHECKPOINTS[0])
    torch.save(encoder, tmp_path / CHECKPOINTS[1])
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / CHECKPOINTS[0]).symlink_to(tmp_path / CHECKPOINTS[0])
    workflow = json.loads(smallest_workflow())
    workflow["2"]["_meta"] = {"title": "Encode SD2 Text"}
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    (tmp_path / "captions.txt").write_text("a cat\na dog\n", encoding="utf-8")
    for line in OURS:
        words = shlex.split(line)[1:]
        if words[0] in ("edit", "demo") or any(word.endswith(".parquet") for word in words):
            continue  # tests/cli and tests/browser start them; tables are tested in tests/dataset
        done = subprocess.run(
            [sys.executable, "-m", "sd2_clip", *words],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        not_sd2s = words[0] == "verify"  # these weights are random
        assert done.returncode == int(not_sd2s), f"{line}\n{done.stderr}"
