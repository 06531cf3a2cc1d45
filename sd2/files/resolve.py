"""Resolves a path to the files to read: all shards of a set, or the weights in a folder."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import UnreadableFileError, and_more
from .file_kinds import WEIGHT_SUFFIXES
from .limits import MAX_INDEX_BYTES
from .path_inside import OutsideFolderError, path_inside

# Names that save_pretrained and open_clip give to weights, the preferred ones first.
_STEMS = (
    "model",
    "pytorch_model",
    "open_clip_model",
    "open_clip_pytorch_model",
    "text_encoder",
    "diffusion_pytorch_model",
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>\..+)")


def resolve_files(path: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The files that *path* stands for, and notes on the choice. Raises UnreadableFileError."""
    if path.is_dir():
        return _choose_in_folder(path)
    if not path.exists():
        link = path.is_symlink()
        raise UnreadableFileError(f"{path}: {'a link to a missing' if link else 'no such'} file.")
    if path.name.endswith(".json"):
        return _read_index(path), ()
    if (match := _SHARD.fullmatch(path.name)) is not None:
        return _shards_of(path, match)
    return (path,), ()


def _choose_in_folder(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    inner = folder / "text_encoder"
    if inner.is_dir():
        files, notes = _choose_in_folder(inner)
        return files, ("a pipeline folder: its text_encoder/ is read", *notes)
    if (folder / "model_index.json").is_file():
        raise UnreadableFileError(
            f"{folder}: a diffusers pipeline without its text_encoder folder. Download that too."
        )
    entries = sorted(folder.iterdir())
    names = [entry.name for entry in entries if entry.is_file()]
    choices = sorted((rank, name) for name in names if (rank := _rank(name)) is not None)
    if not choices:
        weights = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
        if len(weights) != 1:
            held = names + [f"{entry.name}/" for entry in entries if entry.is_dir()]
            what = f"no model file (it holds {and_more(held) or 'nothing'})"
            if weights:
                what = f"{len(weights)} model files: {and_more(weights)}. Name one of them"
            raise UnreadableFileError(f"{folder}: a folder with {what}.")
        choices = [((0, 0, 0, 0), weights[0])]
    chosen = choices[0][1]
    others = [name for _, name in choices[1:]]
    note = f"read from {chosen}" + (f" (also there: {and_more(others)})" if others else "")
    file = folder / chosen
    return (_read_index(file) if chosen.endswith(".json") else (file,)), (note,)


def _rank(name: str) -> tuple[int, int, int, int] | None:
    """Rank of a file in a folder, the smallest is chosen; None if it is not a choice.

    Order: the safe format, full precision ("model.fp16.safetensors" is a variant), the usual stem,
    one file rather than shards.
    """
    index = name.endswith(".json")
    plain = name
    if index:
        # transformers: model.safetensors.index.json; diffusers: model.safetensors.index.fp16.json
        match = re.fullmatch(r"(.+)\.index(\.\w+)?\.json", name)
        if match is None:
            return None
        stem, _, suffix = match[1].rpartition(".")
        plain = f"{stem}{match[2] or ''}.{suffix}"
    suffix = next((suffix for suffix in WEIGHT_SUFFIXES if plain.endswith(suffix)), "")
    stem, *variant = plain.removesuffix(suffix).split(".")
    if not suffix or stem not in _STEMS or len(variant) > 1:
        return None
    return int(suffix not in WEIGHT_SUFFIXES[:2]), len(variant), _STEMS.index(stem), int(index)


def _read_index(index: Path) -> tuple[Path, ...]:
    """The shards that an index names; all must be present, in the folder of the index."""
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise UnreadableFileError(f"{index}: too large for the index of a sharded model.")
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{index}: not readable as JSON: {str(error)[:100]}.") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UnreadableFileError(
            f"{index}: JSON text, not a model or the index of a sharded model (no 'weight_map')."
        )
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        try:
            in_folder = path_inside(index.parent, name).name == name and ":" not in name
        except OutsideFolderError:
            in_folder = False
        if not in_folder:
            raise UnreadableFileError(
                f"{index}: names a shard outside its own folder: {name[:100]!r}."
            )
    return _all_present(index.parent, names, index.name)


def _shards_of(path: Path, match: re.Match[str]) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= 1000:
        return (path,), ()
    names = [
        f"{match['stem']}-{number:05}-of-{count:05}{match['rest']}"
        for number in range(1, count + 1)
    ]
    note = f"one of {count} shards: the whole set is read" if count > 1 else ""
    return _all_present(path.parent, names, path.name), (note,) if note else ()


def _all_present(folder: Path, names: Sequence[str], source: str) -> tuple[Path, ...]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UnreadableFileError(
            f"{folder}: {source} belongs to a set of {len(names)} files, of which "
            f"{len(missing)} are missing: {and_more(missing)}. Download them too."
        )
    return tuple(folder / name for name in names)
