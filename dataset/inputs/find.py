"""Finds the files of captions in a source: a file, a folder, a pattern, or standard input."""

from __future__ import annotations

import hashlib
import posixpath
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from ..storage import FileInfo, Folder
from .captions import CaptionsError, ReadOptions
from .rows import COMPRESSIONS, KINDS, kind_of

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jxl")
TEXT_EXTENSIONS = (".txt", ".caption")
"""Endings of texts beside pictures; the second one is kohya's default."""

NOT_CAPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json", "_stats.json")
"""Endings of JSON files that other programs write beside captions."""

STDIN = "-"


@dataclass(frozen=True)
class Inputs:
    """The files that captions are read from."""

    folder: Folder
    tables: Sequence[FileInfo] = ()
    texts: Sequence[FileInfo] = ()
    """Each has the caption of one picture."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Counts of files that have no partner."""
    is_file: bool = False
    """Whether the source is one file, whose neighbours in the folder do not matter."""


def find_inputs(source: str, out: Folder, options: ReadOptions) -> Inputs:
    """Find the files of *source*; standard input is stored in *out*.

    Raises ``CaptionsError`` if there are no captions, or if it is unclear which files have them.
    """
    if source == STDIN or source.startswith(f"{STDIN}."):
        return _store_stdin(source, out, sys.stdin.buffer)
    if any(character in source for character in "*?[") and not Path(source).exists():
        return _matching(source)
    parent, _, name = source.replace("\\", "/").rpartition("/") if "://" in source else ("", "", "")
    folder = Folder(source)
    if folder.is_local:
        path = folder.local_path
        parent, name = str(path.parent), path.name
    if name and (file := Folder(parent).info(name)) is not None:
        _check_kind(file.name)
        return Inputs(Folder(parent), [file], is_file=True)
    files = folder.files()
    if not files and not (folder.is_local and folder.local_path.is_dir()):
        raise CaptionsError(f"{source} does not exist.")
    return _in_folder(source, folder, files, options)


def _check_kind(name: str) -> None:
    if kind_of(name)[0] is None:
        raise CaptionsError(
            f"{name}: captions are not read from such files. Use one of {', '.join(KINDS)} "
            f"(text, JSON, CSV also with {' or '.join(COMPRESSIONS)}), or a folder."
        )


def _matching(pattern: str) -> Inputs:
    found = Folder(pattern).glob()
    if not found:
        raise CaptionsError(f"{pattern} matches no file.")
    base = posixpath.commonpath([posixpath.dirname(path) for path in found])
    if "://" in pattern:  # commonpath makes one slash of two
        protocol, _, rest = base.partition(":/")
        base = f"{protocol}://{rest.lstrip('/')}"
    folder = Folder(base)
    tables = []
    for path in found:
        file = folder.info(path[len(base) :].lstrip("/"))
        if file is not None:
            _check_kind(file.name)
            tables.append(file)
    return Inputs(folder, tables)


def _in_folder(
    source: str, folder: Folder, files: Sequence[FileInfo], options: ReadOptions
) -> Inputs:
    visible = [
        file
        for file in files
        if not any(part.startswith((".", "_")) for part in file.name.split("/"))
    ]
    pictures = {
        posixpath.splitext(file.name)[0]
        for file in visible
        if posixpath.splitext(file.name)[1].lower() in PICTURES
    }
    texts = _texts(source, visible, pictures, options)
    tables = _tables(visible)
    with_picture = [file for file in texts if _stem(file) in pictures]
    if tables and with_picture:
        raise CaptionsError(
            f"{source} contains tables ({tables[0].name}) and texts beside pictures "
            f"({with_picture[0].name}). Name the table, or a folder with only one of both."
        )
    if tables:
        return Inputs(folder, tables)
    if not texts:
        json_files = [file for file in visible if _is_json(file.name)]
        if json_files:
            return Inputs(folder, json_files)
        raise CaptionsError(
            f"{source} contains no captions: neither texts ({', '.join(TEXT_EXTENSIONS)}) beside "
            f"pictures nor tables ({', '.join(KINDS)})."
        )
    if not pictures:  # which are kept elsewhere
        return Inputs(folder, texts=texts)
    if not with_picture:
        raise CaptionsError(
            f"{source}: no picture has a text with its name, such as {texts[0].name}."
        )
    left_out = {
        "texts_without_picture": len(texts) - len(with_picture),
        "pictures_without_text": len(pictures - {_stem(file) for file in texts}),
    }
    counted = {name: count for name, count in left_out.items() if count}
    return Inputs(folder, texts=with_picture, left_out=counted)


def _stem(file: FileInfo) -> str:
    return posixpath.splitext(file.name)[0]


def _texts(
    source: str, files: Sequence[FileInfo], pictures: set[str], options: ReadOptions
) -> list[FileInfo]:
    """Return the texts with the one ending that captions have here."""
    if options.caption_extension is not None:
        extension = "." + options.caption_extension.lower().removeprefix(".")
        return [file for file in files if posixpath.splitext(file.name)[1].lower() == extension]
    by_extension = {
        extension: [f for f in files if posixpath.splitext(f.name)[1].lower() == extension]
        for extension in TEXT_EXTENSIONS
    }
    beside = {
        extension: found
        for extension, found in by_extension.items()
        if any(_stem(file) in pictures for file in found)
    }
    if len(beside) > 1:
        raise CaptionsError(
            f"{source}: pictures have texts with the endings {' and '.join(beside)}. Choose one "
            "with --caption-extension."
        )
    return next((found for found in (beside or by_extension).values() if found), [])


def _is_json(name: str) -> bool:
    return kind_of(name)[0] == "json" and not name.endswith(NOT_CAPTIONS)


def _tables(files: Sequence[FileInfo]) -> list[FileInfo]:
    """Return the tables of a folder; of an img2dataset shard, the table beside its tar.

    A ``.txt`` is the text of a picture here, and a ``.json`` rarely a table of captions.
    """
    names = {file.name for file in files}
    tables = []
    for file in files:
        kind, compression = kind_of(file.name)
        if kind is None or kind == "json" or (kind == "txt" and not compression):
            continue
        stem = posixpath.splitext(file.name)[0]
        if kind == "tar" and {f"{stem}.parquet", f"{stem}_stats.json"} <= names:
            continue
        tables.append(file)
    return tables


def _store_stdin(source: str, out: Folder, stream: BinaryIO) -> Inputs:
    """Store standard input in *out*, under the digest of its content, for all processes to read."""
    extension = source.removeprefix(STDIN) or ".txt"
    _check_kind(f"stdin{extension}")
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(stream, spool)
        spool.seek(0)
        sha = hashlib.sha256()
        for block in iter(lambda: spool.read(1 << 20), b""):
            sha.update(block)
        name = f"_stdin-{sha.hexdigest()[:16]}{extension}"
        info = out.info(name)
        if info is None:
            spool.seek(0)
            out.create(name, lambda file: shutil.copyfileobj(cast(BinaryIO, spool), file))
            info = out.info(name)
    assert info is not None
    return Inputs(out, [FileInfo(name, info.size, sha.hexdigest())], is_file=True)
