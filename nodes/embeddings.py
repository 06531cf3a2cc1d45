"""The node that loads encoded captions of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import host
from ..host.model_folders import ModelNotFoundError, walk
from ..sd2.errors import SD2ClipError
from .conditioning import FROM_OUTPUT, find_saved

if TYPE_CHECKING:
    from ..host.interface import Conditioning

MANIFEST, PLAN = "manifest.json", "_plan.json"
"""The files by which a folder of encoded captions is known; its manifest is read only if chosen."""


def _names() -> list[str]:
    """List the folders that Load SD2 Embeddings offers."""
    current = host.current()
    saved = [name + FROM_OUTPUT for name in _sets(current.output_directory())]
    return [*_sets(current.input_directory()), *saved]


def _sets(folder: Path) -> Iterator[str]:
    for root, directories, files in walk(folder):
        if Path(root) != folder and MANIFEST in files and PLAN in files:
            yield Path(root).relative_to(folder).as_posix()
            directories.clear()


def _resolve(name: str) -> Path:
    path, folders = find_saved(name, is_wanted=Path.is_dir)
    if path is not None:
        return path
    searched = ", ".join(map(str, folders))
    raise ModelNotFoundError(
        f"The folder of embeddings {name!r} is not in {searched}. Write it there with sd2-clip "
        "encode, or choose a folder of the list."
    )


class LoadSD2Embeddings:
    """Loads encoded captions as a list of conditionings."""

    TITLE = "Load SD2 Embeddings"
    CATEGORY = "SD2"
    DESCRIPTION = (
        "Loads captions that sd2-clip encode has encoded, as a list of conditionings; no text "
        "encoder is needed. What is connected runs once for each caption."
    )
    SEARCH_ALIASES = ["load dataset", "captions", "prompt embeddings", "sd2"]
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("A list: a conditioning for each caption, in the order of the keys.",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "folder": (
                    _names(),
                    {
                        "tooltip": "A folder of the input or the output folder that sd2-clip "
                        "encode has written as parquet or safetensors."
                    },
                ),
                "keys": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "",
                        "tooltip": "The keys of the captions to load, one a line. Empty: all "
                        "captions, but at most the first 100.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None) -> bool | str:
        if folder is None:
            return True  # linked: known when the node runs
        from ..dataset import EncodedCaptions

        try:
            EncodedCaptions(_resolve(folder))
        except SD2ClipError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, folder: str | None, **_others: Any) -> Any:
        if folder is None:
            return float("nan")
        stat = (_resolve(folder) / MANIFEST).stat()
        return [stat.st_mtime_ns, stat.st_size]

    def load(self, folder: str, keys: str) -> dict[str, Any]:
        from ..dataset.as_conditioning import load_as_conditioning

        chosen = [line.strip() for line in keys.splitlines() if line.strip()]
        found, count = load_as_conditioning(_resolve(folder), chosen)
        conditionings: list[Conditioning] = list(found)
        text = f"loaded {len(conditionings):,} of {count:,} captions"
        return {"ui": {"text": [text]}, "result": (conditionings,)}
