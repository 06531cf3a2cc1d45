"""The arrows of design.md: which part may import which, and when."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# part -> the parts of ours that it may import; a part is a folder or a module at the root.
ARROWS = {
    "sd2": set(),
    "host": {"sd2"},
    "headless": {"host.interface"},
    "loading": {"sd2", "host"},
    "provenance": {"sd2", "host", "loading", "version"},
    "encoding": {"sd2", "host", "provenance"},
    "nodes": {"loading", "encoding", "provenance", "sd2", "host"},
    "routes": {"encoding", "sd2", "host"},
    "editor": {"headless", "host", "version"},
    "dataset": {"loading", "sd2", "host", "version"},
    # The command line puts all the parts together.
    "cli": {
        "headless",
        "nodes",
        "loading",
        "encoding",
        "routes",
        "sd2",
        "host",
        "editor",
        "dataset",
        "version",
        "",
    },
    "version": set(),
}

COMFYUI_MODULES = {"comfy", "comfy_extras", "folder_paths", "server", "nodes", "execution"}


def modules(part: str) -> list[Path]:
    return sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / f"{part}.py"]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports: ours start with a dot, from the root."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if not node.level:
                yield node.module or ""
                continue
            base = package[: len(package) - node.level + 1]
            if node.module:
                yield "." + ".".join((*base, node.module))
            else:
                yield from ("." + ".".join((*base, alias.name)) for alias in node.names)


@pytest.mark.parametrize("part", ARROWS)
def test_a_part_imports_only_what_its_arrows_allow(part):
    for path in modules(part):
        for name in imports(path):
            if not name.startswith("."):
                continue
            target = name[1:]
            first = target.split(".")[0]
            if not (ROOT / first).exists() and not (ROOT / f"{first}.py").exists():
                first = target = ""  # a name of the root's own __init__
            within = {one for one in ARROWS[part] | {part} if f"{target}.".startswith(f"{one}.")}
            assert within, f"{path.relative_to(ROOT)} imports {name}"


def test_only_the_comfyui_host_imports_comfyui():
    for part in ARROWS:
        for path in modules(part):
            if path.name == "comfyui.py" and part == "host":
                continue
            found = {name.split(".")[0] for name in imports(path) if not name.startswith(".")}
            assert not found & COMFYUI_MODULES, path


def modules_after(code: str, tmp_path: Path) -> set[str]:
    """What a fresh process has imported after *code*, with the plugin as ``sd2_clip``."""
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    program = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_plugin_imports_nothing_heavy(tmp_path):
    loaded = modules_after("import sd2_clip; sd2_clip.NODE_CLASS_MAPPINGS", tmp_path)
    assert not loaded & {"torch", "transformers", "tokenizers", "safetensors", "numpy", "yaml"}


def test_inspecting_a_file_needs_no_torch(tmp_path):
    file = ROOT / "tests/data/golden/tiny_text_encoder.safetensors"
    code = (
        "import sd2_clip.cli\n"
        f"assert sd2_clip.cli.main(['inspect', {str(file)!r}]) == 1  # 32 wide: not SD2's\n"
    )
    assert not modules_after(code, tmp_path) & {"torch", "transformers", "numpy"}
