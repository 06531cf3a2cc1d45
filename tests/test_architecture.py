"""The arrows of docs/architecture.md: which part may import which, and when."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# part -> the parts of ours that it may import; a part is a folder or a module.
# The most special part that a module lies in counts. docs/architecture.md draws them.
ARROWS = {
    "__init__": {"nodes", "host", "version", "clip", "sd2"},
    "nodes": {"clip", "dataset", "sd2", "host"},
    "clip": {"sd2", "host", "version"},
    "host": {"sd2.files", "sd2.errors", "sd2.sd2_clip", "sd2.sd2_tokenizer", "sd2.model"},
    "dataset": {"clip", "sd2", "host", "version"},
    "headless": {"host.interface", "sd2.files", "sd2.errors", "sd2.syntax"},
    "editor": {"headless", "host", "sd2.files", "sd2.errors"},
    # The command line puts all the parts together.
    "cli": {"headless", "nodes", "clip", "sd2", "host", "editor", "dataset", "version", ""},
    "version": set(),
    # Inside sd2.
    "sd2": {"sd2.sd2_clip", "sd2.sd2_tokenizer", "sd2.model", "sd2.tokens"},
    "sd2.errors": set(),
    "sd2.config": {"sd2.errors"},
    "sd2.files": {"sd2.errors"},
    "sd2.detection": {"sd2.files", "sd2.config", "sd2.errors"},
    "sd2.model": {"sd2.config", "sd2.errors"},
    "sd2.syntax": {"sd2.errors"},
    "sd2.tokens": {"sd2.syntax", "sd2.files", "sd2.config", "sd2.errors"},
    "sd2.lora": {"sd2.files", "sd2.config", "sd2.errors"},
    "sd2.sd2_clip": {"sd2.model", "sd2.config", "sd2.errors"},
    "sd2.sd2_tokenizer": {"sd2.tokens", "sd2.config"},
}

COMFYUI_MODULES = {"comfy", "comfy_extras", "folder_paths", "server", "nodes", "execution"}


def parts_of(module: str) -> list[str]:
    """The parts that a dotted module lies in, the most special one first."""
    return sorted(
        (part for part in ARROWS if f"{module}.".startswith(f"{part}.")), key=len, reverse=True
    )


def product() -> list[tuple[str, Path]]:
    """Dotted name and file of each of our modules; the root's own is ``__init__``."""
    files = [*ROOT.glob("*.py")]
    for part in {part.split(".")[0] for part in ARROWS}:
        files += (ROOT / part).rglob("*.py")
    named = []
    for path in sorted(files):
        parts = path.relative_to(ROOT).with_suffix("").parts
        named.append(
            (".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts), path)
        )
    return named


PRODUCT = product()
MODULES = {module for module, _ in PRODUCT}


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
            base = [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                yield "." + (whole if whole in MODULES else ".".join(base))


def arrows_of(path: Path) -> Iterator[str]:
    """What a file imports of ours; "" is the root's own ``__init__``."""
    for name in imports(path):
        if name.startswith("."):
            yield name[1:]


@pytest.mark.parametrize(("module", "path"), PRODUCT, ids=[module for module, _ in PRODUCT])
def test_a_module_imports_only_what_its_arrows_allow(module, path):
    if module == "__main__":
        return
    part = parts_of(module)[0]
    for target in arrows_of(path):
        if part in parts_of(target)[:1]:
            continue
        allowed = [to for to in ARROWS[part] if f"{target}.".startswith(f"{to}.")]
        assert allowed, f"{path.relative_to(ROOT)} imports {target}"


def test_every_arrow_is_used():
    unused = []
    for part, targets in ARROWS.items():
        reached = {
            target
            for module, path in PRODUCT
            if parts_of(module)[:1] == [part]
            for target in arrows_of(path)
        }
        unused += [
            f"{part} -> {to}"
            for to in targets
            if not any(f"{target}.".startswith(f"{to}.") for target in reached)
        ]
    assert not unused


def test_only_the_comfyui_host_imports_comfyui():
    for module, path in PRODUCT:
        if module not in ("host.comfyui", "host.comfyui_layers"):
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
