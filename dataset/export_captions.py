"""Exports encoded captions to another format, without encoding them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from ..sd2.errors import OptionError
from ..sd2.files.atomic_write import check_writable
from .encode_fragment import Job, write_rows
from .encoded_captions import EncodedCaptions
from .finish import Summary, finish
from .formats import Format, FormatOptions
from .inputs.captions import ReadOptions
from .manifest import EMPTY_ID, Listing
from .plan import PLAN, Plan, check_out, check_settings
from .storage import Folder


def export_captions(
    source: str,
    out: str,
    format: Format,
    *,
    progress: Callable[[Summary, int], None] = lambda summary, rows: None,
) -> Summary:
    """Write the encoded captions of the folder *source* in another format into the folder *out*.

    Each file becomes the files of a fragment; those that are done are not written again. Raises
    ``OptionError`` if the format needs what the source does not have.
    """
    encoded = EncodedCaptions(source)
    options = [field.name for field in fields(FormatOptions)]
    kept = {name: value for name, value in encoded.settings.items() if name not in options}
    settings = {**kept, "file_format": format.name, **format.chosen.as_json()}
    if format.needs_encoder:
        raise OptionError(
            f"--format {format.name} needs embeddings of texts that are not in {source}. Use "
            f"sd2-clip encode --format {format.name}."
        )
    if encoded.settings["file_format"] == "keys":
        raise OptionError(
            f"{source} has keys of captions and no embeddings. Export the folder embeddings beside "
            "it."
        )
    format.check(settings)
    folder = Folder(out)
    check_out(folder)
    if folder.is_local:
        check_writable(folder.local_path)
    folder.remove_stale_partials()
    if check_settings(folder, settings) is None:
        folder.write(PLAN, Plan(settings, source, [], threads=1).to_json())
    job = Job(Folder(source), folder, ReadOptions(), format, settings, threads=1)
    listing = Listing(folder)
    files = {fragment_id(name): name for name in (encoded.empty_file, *encoded.files)}
    summary = Summary(fragments=len(encoded.files), left_out=encoded.left_out)
    for name, file in files.items():
        progress(summary, len(encoded))
        if not listing.done(name, per_fragment=format.per_fragment):
            sidecar = write_rows(job, name, encoded.read_file(file))
            summary.encoded += 0 if name == EMPTY_ID else sidecar.captions
    finish(list(files), job, summary)
    return summary


def fragment_id(file: str) -> str:
    """Return the id of the fragment that a file has."""
    return file.partition(".")[0].removeprefix("captions-")
