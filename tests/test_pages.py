"""Every command and snippet of README.md and docs/ as it is printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


PARTS = ("cli", "clip", "dataset", "editor", "headless", "host", "nodes", "sd2")
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
    found = (names for page in PAGES.values() for names in re.findall(r'"\.\[([\w,]+)\]"', page))
    extras = {name for names in found for name in names.split(",")}
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert extras
    assert INSTALL


def test_no_page_and_no_hint_installs_us_from_the_package_index() -> None:
    """There we are not published."""
    sources = [path for part in PARTS for path in (ROOT / part).rglob("*.py")]
    for page in [*PAGES.values(), *(path.read_text(encoding="utf-8") for path in sources)]:
        assert not re.search(r"pip install [\"'\\]*sd2-clip", page)


def test_the_first_page_names_every_command() -> None:
    table = PAGES["README.md"].partition("| command | does |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(cli.COMMANDS)


def test_parquet_is_installed_before_it_is_written() -> None:
    for page in ("README.md", "docs/datasets.md"):
        lines = "\n".join(blocks(page, "")).splitlines()
        written = next(i for i, line in enumerate(lines) if line.startswith("sd2-clip encode "))
        assert any("dataset" in line for line in lines[:written] if "pip install" in line), page


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


class Examples(dict[str, Any]):
    """Examples by column, in preprocess_train, and one by one, in collate_fn."""

    def __iter__(self) -> Iterator[Any]:
        return ({"embedding": one} for one in self["embedding"])


class MapsBatches:
    """A data set with the interface of datasets and Ray Data, which gives one batch of two texts.

    The real ones call ``CaptionEncoder`` in tests/dataset.
    """

    def __init__(self) -> None:
        self.results: list[Mapping[str, Any]] = []

    def map(self, encode: Any, *, batched: bool, batch_size: int) -> None:
        assert batched
        self.results.append(encode({"text": ["a cat", "a dog"]}))

    def map_batches(self, encode: Any, *, fn_constructor_args: Any, **_options: Any) -> None:
        self.results.append(encode(*fn_constructor_args)({"caption": ["a cat", "a dog"]}))


def test_snippets_about_data_sets_run_as_printed(
    small_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
    from sd2_clip.dataset import CaptionEncoder, caption_encoder
    from sd2_clip.dataset.encode_captions import encode_captions
    from sd2_clip.dataset.encode_distinct import encode_distinct
    from sd2_clip.dataset.formats import make_format

    small = load_clip_module.load_clip
    monkeypatch.setattr(
        caption_encoder,
        "load_clip",
        lambda *arguments, model_options, **options: small(*arguments, **options),
    )
    captions = ["a cat", "a dog", "a cat", "a fox", "a dog", "A  DOG"]  # the page reads row 5
    Path("captions.txt").write_text("".join(f"{one}\n" for one in captions), encoding="utf-8")
    encoder = CaptionEncoder(CHECKPOINTS[0], device="cpu")
    encode_captions("captions.txt", "embeddings", encoder, make_format("safetensors"))
    encode_distinct("captions.txt", "OUT", encoder, make_format("safetensors"))
    data = MapsBatches()
    names: dict[str, Any] = {
        "epoch": 0,
        "torch": torch,
        "examples": Examples(file_name=["captions.txt:1", "captions.txt:0"]),
        "batch": {"encoder_hidden_states": torch.zeros(1)},
        "accelerator": SimpleNamespace(device="cpu"),
        "weight_dtype": torch.float16,
        "data_set": data,
        "ray_data": data,
    }
    for text in blocks("docs/datasets.md", "python"):
        exec(compile(text, "docs/datasets.md", "exec"), names)
    expected = names["captions"][1]["caption_latents"]
    torch.testing.assert_close(names["examples"]["embedding"][0], expected)
    assert [len(result["caption_latents"]) for result in data.results] == [2, 2]


@pytest.mark.nightly
@pytest.mark.full_size
def test_commands_run_as_printed(tmp_path: Path) -> None:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    encoder = layouts.canonical_encoder(SD2_CONFIG, dtype=torch.float16)
    layouts.save_safetensors(encoder, tmp_path / CHECKPOINTS[0])
    for name in CHECKPOINTS[1:]:
        torch.save(encoder, tmp_path / name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / CHECKPOINTS[0]).symlink_to(tmp_path / CHECKPOINTS[0])
    workflow = json.loads(smallest_workflow())
    workflow["2"]["_meta"] = {"title": "Encode SD2 Text"}
    (tmp_path / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    (tmp_path / "captions.txt").write_text("a cat\na dog\n", encoding="utf-8")
    failed = []
    for line in OURS:
        words = shlex.split(line)[1:]
        if words[0] in ("edit", "demo"):
            continue  # tests/cli and tests/browser start them
        if any(word.endswith(".parquet") or word.startswith("s3:") for word in words):
            continue  # tables and object stores are tested in tests/dataset
        done = subprocess.run(
            [sys.executable, "-m", "sd2_clip", *words],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        expected = int(words[0] == "verify")  # these weights are random, not SD2's
        if done.returncode != expected:
            failed.append(f"{line}\n{done.stderr}")
    assert not failed, "\n".join(failed)
