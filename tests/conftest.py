"""Loads the plugin once, from the repository root, under its one canonical name.

No installation is needed, and the root never lands on ``sys.path``: there, our ``nodes`` folder
would shadow ComfyUI's ``nodes.py``.
"""

import importlib.util
import sys
from pathlib import Path

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
