"""``sd2-clip demo``: encodes a first prompt, with a real checkpoint or with random weights."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from .. import host
from ..host.standalone import StandaloneHost
from ..sd2.detection.detect import detect
from ..sd2.files.atomic_write import check_writable, write_safetensors
from .path_argument import path_argument
from .run_command import run_workflow

if TYPE_CHECKING:
    import torch

WORKFLOW = Path(__file__).parent.parent / "example_workflows" / "First steps.json"

RANDOM_FILE = "sd2-RANDOM-WEIGHTS-demo.safetensors"

SEED = 2

EDITOR_PACKAGES = "aiohttp comfyui-frontend-package"
"""What the extra ``editor`` installs, without a folder or quotes that one would have to type."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=path_argument,
        help="an SD2 checkpoint (default: a new encoder with random weights, 0.7 GB)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=path_argument,
        default=Path("demo"),
        help="folder for the results (default: ./demo)",
    )


def run(arguments: argparse.Namespace) -> int:
    checkpoint: Path | None = arguments.checkpoint
    if checkpoint is not None:
        detect(checkpoint)  # raises what is wrong with it, in one sentence
    check_writable(arguments.output)
    if checkpoint is None:
        checkpoint = arguments.output / "models" / "text_encoders" / RANDOM_FILE
        if not checkpoint.exists():
            write_random_encoder(checkpoint)
        print(
            "NOTE: no checkpoint was given. This encoder has RANDOM WEIGHTS: the conditioning has "
            "the right shape but no meaning. Give a real checkpoint with --checkpoint FILE."
        )
    host.use(StandaloneHost([checkpoint.parent], output=arguments.output))
    run_workflow(WORKFLOW, [f"LoadSD2CLIP.clip_name={checkpoint.name}"])
    print(_what_next(checkpoint))
    return 0


def _what_next(checkpoint: Path) -> str:
    """Say how to go on, in commands that bash, zsh, PowerShell and cmd run as they are."""
    scripts = Path(sys.executable).parent
    python, command = _typed(Path(sys.executable)), f"{_typed(Path(sys.executable))} -m sd2_clip"
    if any((scripts / name).exists() for name in ("sd2-clip", "sd2-clip.exe")):
        command = _typed(scripts / "sd2-clip")
    models = _typed(checkpoint.parent)
    is_there = find_spec("aiohttp") and find_spec("comfyui_frontend_package")
    install = "" if is_there else f"  {python} -m pip install {EDITOR_PACKAGES}\n"
    return (
        "\nNext:\n"
        f"  {command} inspect {_typed(checkpoint)}\n"
        "says what a file holds. The editor, in the browser:\n"
        f"{install}"
        f"  {command} edit --models {models}\n"
        "A workflow that you saved there:\n"
        f"  {command} run WORKFLOW.json --models {models}"
    )


def _typed(path: Path) -> str:
    """Return a path as one types it here: relative if it can be, quoted only if it must be."""
    path = path.absolute()  # not resolved: the python of an environment is a link
    shown = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return f'"{shown}"' if " " in shown else shown


def write_random_encoder(path: Path) -> None:
    """Write a full-size text encoder in fp16 with seeded random weights, labelled as random."""
    from ..clip.load_clip import RANDOM_WEIGHTS_KEY

    print(f"writing an encoder with random weights: {path} (0.7 GB, once)", file=sys.stderr)
    metadata = {"format": "pt", RANDOM_WEIGHTS_KEY: f"seed {SEED}: the results have no meaning"}
    write_safetensors(path, random_state_dict(), metadata)


def random_state_dict() -> dict[str, torch.Tensor]:
    """Create random fp16 weights with the standard deviations of open_clip's initialisation."""
    import torch

    from ..sd2.sd2_clip import SD2ClipModel

    layout = SD2ClipModel(device="meta").clip_h.transformer.state_dict()
    width = layout["text_model.final_layer_norm.weight"].shape[0]
    layers = 1 + max(int(name.split(".")[3]) for name in layout if ".layers." in name)
    residual = (2 * layers) ** -0.5  # keeps the sum over all blocks as large as one block's output
    deviations = {
        "token_embedding": 0.02,
        "position_embedding": 0.01,
        "out_proj": width**-0.5 * residual,
        "fc1": (2 * width) ** -0.5,
        "fc2": width**-0.5 * residual,
    }
    generator = torch.Generator().manual_seed(SEED)
    state_dict = {}
    for name, tensor in layout.items():
        kind = name.split(".")[-2]
        if name.endswith(".bias"):
            state_dict[name] = torch.zeros(tensor.shape, dtype=torch.float16)
        elif "norm" in kind:
            state_dict[name] = torch.ones(tensor.shape, dtype=torch.float16)
        else:
            values = torch.randn(tensor.shape, generator=generator)
            state_dict[name] = (values * deviations.get(kind, width**-0.5)).half()
    return state_dict
