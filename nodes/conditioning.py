"""The nodes that save and load conditioning."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import ModelNotFoundError, locate, weight_files
from ..sd2.files.file_kinds import is_conditioning_file

if TYPE_CHECKING:
    from ..host.interface import Conditioning

FROM_OUTPUT = " [output]"
"""ComfyUI's suffix for a file of the output folder in a list of input files."""


FROM_EMBEDDINGS = " [embeddings]"
"""The same for models/embeddings, where ComfyUI's Load Conditioning wants its files."""

SMALLEST_FILE = 77 * 768 * 2
"""Bytes of one chunk in half precision. A smaller file of models/embeddings is not opened, because
there may be thousands of textual inversions."""


def _names() -> list[str]:
    """List the files that Load SD2 Conditioning offers."""
    current = host.current()
    found = weight_files(current.input_directory(), [".safetensors"])
    saved = weight_files(current.output_directory(), [".safetensors"])
    found += [name + FROM_OUTPUT for name in saved]
    for folder in current.model_folders("embeddings"):
        for name in weight_files(folder, [".safetensors"]):
            if is_conditioning_file(folder / name, SMALLEST_FILE):
                found.append(name + FROM_EMBEDDINGS)
    return list(dict.fromkeys(found))


def _resolve(conditioning_name: str) -> Path:
    embeddings = host.current().model_folders("embeddings")
    path, folders = find_saved(conditioning_name, {FROM_EMBEDDINGS: embeddings})
    if path is not None:
        return path
    searched = ", ".join(map(str, folders))
    raise ModelNotFoundError(
        f"Conditioning {conditioning_name!r} is not in {searched}. Save it there with Save SD2 "
        "Conditioning, or choose a file of the list."
    )


def find_saved(
    name: str,
    others: Mapping[str, Sequence[Path]] | None = None,
    is_wanted: Callable[[Path], bool] = Path.exists,
) -> tuple[Path | None, Sequence[Path]]:
    """Return what a name of a list stands for, if it is there, and the folders searched for it.

    A name without a suffix is in the input or the output folder. *others* are the folders of names
    with other suffixes than ``FROM_OUTPUT``.
    """
    current = host.current()
    below = name.replace("\\", "/")
    folders: Sequence[Path] = [current.input_directory(), current.output_directory()]
    for suffix, places in {FROM_OUTPUT: folders[1:], **(others or {})}.items():
        if below.endswith(suffix):
            below, folders = below.removesuffix(suffix), places
            break
    found = (locate(folder, below) for folder in folders)
    return next((path for path in found if path is not None and is_wanted(path)), None), folders


class SaveSD2Conditioning:
    """Saves conditioning as safetensors."""

    TITLE = "Save SD2 Conditioning"
    CATEGORY = "SD2"
    DESCRIPTION = (
        "Saves conditioning to the output folder as safetensors; the file says which text, "
        "weights, layer and embeddings made it."
    )
    SEARCH_ALIASES = ["save conditioning", "cache prompt", "export embedding"]
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning": ("CONDITIONING", {"tooltip": "What to save."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "conditioning/sd2",
                        "tooltip": "Start of the file's name, below the output folder; a number "
                        "follows it.",
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def save(
        self,
        conditioning: Conditioning,
        filename_prefix: str,
        prompt: Any = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        from ..clip.conditioning_file import save_numbered

        workflow: dict[str, str] = {}
        if prompt is not None and host.current().embeds_workflows():
            documents = {"prompt": prompt, **(extra_pnginfo or {})}
            workflow = {key: json.dumps(value) for key, value in documents.items()}
        folder = host.current().output_directory()
        path = save_numbered(folder, filename_prefix, conditioning, workflow)
        subfolder = path.parent.relative_to(os.path.abspath(folder)).as_posix()
        shapes = [str(list(cond.shape)) for cond, _ in conditioning]
        saved = {"filename": path.name, "subfolder": "" if subfolder == "." else subfolder}
        return {
            "ui": {
                "conditioning": [{**saved, "type": "output"}],
                "text": [f"saved {path}: {', '.join(shapes)}"],
            }
        }


class LoadSD2Conditioning:
    """Loads saved conditioning."""

    TITLE = "Load SD2 Conditioning"
    CATEGORY = "SD2"
    DESCRIPTION = (
        "Loads conditioning that Save SD2 Conditioning or ComfyUI's Save Conditioning wrote; no "
        "text encoder is needed."
    )
    SEARCH_ALIASES = ["load conditioning", "cached prompt"]
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("The conditioning as it was saved.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "conditioning_name": (
                    _names(),
                    {"tooltip": "A file of the input folder, the output folder or embeddings."},
                )
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, conditioning_name: str | None) -> bool | str:
        if conditioning_name is None:
            return True  # linked: known when the node runs
        try:
            _resolve(conditioning_name)
        except ModelNotFoundError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, conditioning_name: str | None) -> Any:
        if conditioning_name is None:
            return float("nan")
        stat = _resolve(conditioning_name).stat()
        return [stat.st_mtime_ns, stat.st_size]

    def load(self, conditioning_name: str) -> tuple[Conditioning]:
        from ..clip.conditioning_file import load_conditioning

        return (load_conditioning(_resolve(conditioning_name)),)
