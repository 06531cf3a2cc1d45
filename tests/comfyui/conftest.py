"""A real ComfyUI for the tests here: ``COMFYUI_DIR=/path/to/ComfyUI pytest tests/comfyui``.

It runs with the interpreter that runs pytest, on the CPU, in folders of its own. Folders of other
node packs may be named in ``COMFYUI_PACKS``, separated like PATH.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comfyui_graphs import core_clip
from comfyui_models import SMALL_CONFIG, write_models
from comfyui_server import ComfyUI, Graph
from model_shapes import SD2_CONFIG


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("comfyui")


@pytest.fixture(scope="session")
def installation() -> Path:
    named = os.environ.get("COMFYUI_DIR")
    if not named:
        pytest.skip("COMFYUI_DIR does not name a ComfyUI installation")
    return Path(named).resolve()


def _packs() -> list[Path]:
    return [Path(name) for name in os.environ.get("COMFYUI_PACKS", "").split(os.pathsep) if name]


def _serve(
    base: Path, installation: Path, sizes: dict[str, int], config: dict[str, int] | None
) -> Iterator[ComfyUI]:
    write_models(base / "models", sizes)
    os.sync()  # ComfyUI's start is timed; it should not wait for our disk
    server = ComfyUI(installation, base, config=config, packs=_packs())
    yield server
    server.stop()
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def comfyui(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """With text encoders 64 wide, in core and in our plugin."""
    base = tmp_path_factory.mktemp("comfyui")
    yield from _serve(base, installation, SMALL_CONFIG, SMALL_CONFIG)


@pytest.fixture(scope="session")
def full_comfyui(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """With text encoders of SD2's real size."""
    base = tmp_path_factory.mktemp("comfyui-full")
    yield from _serve(base, installation, SD2_CONFIG, None)


@pytest.fixture(scope="session")
def available(comfyui: ComfyUI) -> dict[str, Any]:
    return comfyui.nodes()


@pytest.fixture(scope="session")
def of_2023(comfyui: ComfyUI) -> bool:
    """Whether core's SD2 model is the first of its kind.

    It keeps its tables in fp32 whatever the dtype, has a projection of its own, reads that from
    stand-alone files but not from checkpoints, and saves ours under a name that nobody reads.
    """
    graph = Graph()
    probe = graph.add("ProbeForTest", clip=core_clip(graph))
    names = json.loads(comfyui.run(graph)[probe.key]["text"][0])["names"]
    return "clip_h.text_projection" in names


@pytest.fixture
def need(available: dict[str, Any]) -> Callable[..., None]:
    """Skips the test where this ComfyUI lacks a node."""

    def check(*names: str) -> None:
        missing = [name for name in names if name not in available]
        if missing:
            pytest.skip(f"this ComfyUI has no {', '.join(missing)}")

    return check
