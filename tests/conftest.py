"""Loads the plugin once, from the repository root, under its one canonical name.

No installation is needed, and the root never lands on ``sys.path``: there, our ``nodes`` folder
would shadow ComfyUI's ``nodes.py``.
"""

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sd2_clip.host.standalone import StandaloneHost

ROOT = Path(__file__).parent.parent

if "sd2_clip" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "sd2_clip", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    plugin = importlib.util.module_from_spec(spec)
    sys.modules["sd2_clip"] = plugin  # before it runs, as ComfyUI does
    spec.loader.exec_module(plugin)


@pytest.fixture(autouse=True)
def plain_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs no weights in tests that do not ask for it: a packed one rounds differently.

    Test modules share encoders, so that it would depend on the order of tests which results differ.
    """
    from sd2_clip.sd2.model import onednn

    monkeypatch.setattr(onednn, "PACK_AFTER", math.inf)


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator["StandaloneHost"]:
    """A standalone host with ComfyUI's folders, empty, under ``tmp_path/models``."""
    from sd2_clip import host
    from sd2_clip.host.standalone import MODEL_KINDS, StandaloneHost

    for kind in MODEL_KINDS:
        (tmp_path / "models" / kind).mkdir(parents=True)
    previous = host.current()
    runs_in = StandaloneHost([tmp_path / "models"], output=tmp_path / "output", input=tmp_path)
    host.use(runs_in)
    yield runs_in
    host.use(previous)
