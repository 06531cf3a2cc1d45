"""What belongs together across files: versions, dependencies, and loading as ComfyUI does."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sd2_clip

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_one_version_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest is not None
    assert PYPROJECT["project"]["version"] == sd2_clip.__version__ == newest[1]


def test_requirements_are_the_projects_dependencies():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == PYPROJECT["project"]["dependencies"]


def test_every_package_is_installed():
    listed = PYPROJECT["tool"]["setuptools"]["packages"]
    found = {
        ".".join(("sd2_clip", *path.parent.relative_to(ROOT).parts))
        for path in ROOT.rglob("__init__.py")
        if not {"tests", "benchmarks", "build", ".venv", "node_modules"} & set(path.parts)
    }
    assert set(listed) == found


LOAD_AS_COMFYUI = """
import importlib.util, sys
path = sys.argv[1]
name = path.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, path + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
print(",".join(module.NODE_CLASS_MAPPINGS))
"""


def test_loads_under_any_folder_name_as_comfyui_loads_it(tmp_path):
    folder = tmp_path / "custom_nodes" / "SD2 CLIP.v1-x"
    skip = shutil.ignore_patterns(".*", "tests", "build", "demo", "output", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=skip)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD_AS_COMFYUI, str(folder)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().split(",") == list(sd2_clip.NODE_CLASS_MAPPINGS)
    assert done.stderr == ""


@pytest.mark.parametrize("name", sd2_clip.NODE_CLASS_MAPPINGS)
def test_every_input_and_output_is_explained(name):
    node = sd2_clip.NODE_CLASS_MAPPINGS[name]
    declared = node.INPUT_TYPES()
    for group in ("required", "optional"):
        for input_name, (_, options) in declared.get(group, {}).items():
            assert options.get("tooltip"), input_name
    assert len(getattr(node, "OUTPUT_TOOLTIPS", ())) == len(node.RETURN_TYPES)
    assert node.DESCRIPTION


@pytest.mark.parametrize("module", [sd2_clip, sd2_clip.sd2], ids=["sd2_clip", "sd2_clip.sd2"])
def test_what_a_package_promises_can_be_imported(module):
    assert {name for name in module.__all__ if getattr(module, name, None) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_the_classes_are_the_same_under_both_names():
    assert all(
        getattr(sd2_clip, name) is getattr(sd2_clip.sd2, name) for name in sd2_clip.sd2.__all__
    )
    assert issubclass(sd2_clip.SD2ClipModel, sd2_clip.SD1ClipModel)
    assert issubclass(sd2_clip.SD2ClipHTokenizer, sd2_clip.SDTokenizer)
