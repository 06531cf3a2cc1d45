"""What goes to the registry: the archive's files, alone, against the registry's own checks."""

import json
import re
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from node_descriptions import CORE_NODES, EXAMPLE_FILES, described

pytestmark = pytest.mark.slow

pathspec = pytest.importorskip("pathspec", reason="pathspec is in the test group")

ROOT = Path(__file__).parent.parent

# Texts that the registry's scan flags in .py, .js and .json alike; any finding, even a harmless
# one in a comment, withholds the version until somebody has looked at it by hand.
TRIPWIRES = {
    "network": r"urllib|requests|socket\.socket\(|socket\.create_connection\("
    r"|aiohttp\.ClientSession|\.connect\(|\.bind\(|\.send\(|\.sendall\(",
    "environment": r"os\.environ|getenv\(|environ\[|putenv|unsetenv",
    "commands": r"subprocess|os\.system",
    "dynamic execution": r"\b(?:exec|eval)\s*\(|__import__\(",
    "deletion": r"\brm -rf\b",
    "bytecode": r"\bmarshal\b|\bCodeType\b",
}


def archive_files() -> list[str]:
    """As ``comfy node publish`` picks them: what git tracks, without .comfyignore's."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("the archive is made of the files that git tracks, and this is no checkout")
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    files = sorted(name for name in done.stdout.split("\0") if name)
    return [name for name in files if not ignored.match_file(name) and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The archive unpacked, under a name that is no Python identifier."""
    folder = tmp_path_factory.mktemp("custom_nodes") / "sd2-clip"
    for name in archive_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def tool(name):
    """A command of the environment that runs the tests."""
    found = Path(sys.executable).parent / name
    path = str(found) if found.exists() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; it is in the test group")
    return path


def check(*command, cwd):
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_archive_holds_what_the_plugin_needs_and_no_more():
    files = archive_files()
    top = {name.split("/")[0] for name in files}
    assert top == {
        "__init__.py", "version.py",
        "nodes", "clip", "sd2", "host", "js", "locales", "example_workflows",
        "README.md", "CHANGELOG.md", "LICENSE", "NOTICE", "pyproject.toml", "requirements.txt",
    }  # fmt: skip
    assert not [name for name in files if "standalone" in name]


def test_the_archive_has_no_links_and_no_compiled_files():
    """Hosts that check packs refuse both."""
    files = archive_files()
    assert not [name for name in files if (ROOT / name).is_symlink()]
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]


def test_the_help_pages_ship():
    assert "js/docs/LoadSD2CLIP.md" in archive_files()


def test_no_text_trips_the_registrys_scan(archive):
    found = []
    for path in archive.rglob("*"):
        if path.suffix not in (".py", ".js", ".json"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            found += [
                f"{path.relative_to(archive)}:{number}: {kind}: {line.strip()[:100]}"
                for kind, pattern in TRIPWIRES.items()
                if re.search(pattern, line)
            ]
    assert not found, "\n".join(found)


def test_no_line_is_a_bundlers():
    """The scan takes long lines of script for built files of unknown origin."""
    for path in (ROOT / "js").rglob("*.js"):
        assert max(map(len, path.read_text(encoding="utf-8").splitlines())) < 200, path


def test_the_registrys_ruff_rules_pass(archive):
    if util.find_spec("ruff") is None:
        pytest.skip("ruff is not installed; it is in the test group")
    rules = ["--isolated", "--no-cache", "--select", "S102,S307,E702"]
    check(sys.executable, "-m", "ruff", "check", *rules, archive, cwd=archive)


def test_comfy_test_finds_nothing(archive):
    check(tool("comfy-test"), "lint", "--strict", archive, cwd=archive)


def test_comfy_lint_finds_nothing_in_the_workflows(standalone, tmp_path):
    workflows = sorted((ROOT / "tests" / "workflows").glob("*.json"))
    for name in EXAMPLE_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    schema = tmp_path / "object_info.json"
    listed = described() | json.loads(CORE_NODES.read_text(encoding="utf-8"))
    schema.write_text(json.dumps(listed), encoding="utf-8")
    check(tool("comfy-lint"), "--strict", "--schema-cache", schema, *workflows, cwd=tmp_path)


# What ComfyUI has imported before it loads a node pack, as far as we ask it at start.
LOAD_IN_COMFYUI = """
import importlib, pkgutil, sys, types
from pathlib import Path

folder = Path(sys.argv[1])

def module(name, **content):
    made = types.ModuleType(name)
    vars(made).update(content)
    sys.modules[name] = made
    return made

module("folder_paths", get_folder_paths=lambda kind: [str(folder)], folder_names_and_paths={},
       get_input_directory=lambda: str(folder), get_output_directory=lambda: str(folder))
import torch
management = module("comfy.model_management", get_torch_device=lambda: torch.device("cpu"))
module("comfy", model_management=management)

name = str(folder).replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
pack = importlib.util.module_from_spec(spec)
sys.modules[name] = pack
spec.loader.exec_module(pack)
for node in pack.NODE_CLASS_MAPPINGS.values():
    node.INPUT_TYPES()
for found in pkgutil.walk_packages([str(folder)], name + "."):
    importlib.import_module(found.name)
print(*pack.NODE_CLASS_MAPPINGS, sep=",")
"""


def test_the_plugin_loads_in_comfyui_from_the_archive_alone(archive):
    """And so does every module in it: none needs one that stayed behind."""
    import sd2_clip

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD_IN_COMFYUI, str(archive)],
        cwd=archive.parent,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.strip().split(",") == list(sd2_clip.NODE_CLASS_MAPPINGS)
    there = {path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file()}
    written = {name for name in there if "__pycache__" not in name} - set(archive_files())
    assert written == set(), "the plugin writes into its own folder"
