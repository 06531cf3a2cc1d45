"""Encodes a data set: plans it, encodes the fragments that are not done, finishes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Protocol

from ..sd2.errors import OptionError
from ..sd2.files.atomic_write import writable
from .encode_fragment import Encoder, Environment, Job
from .finish import Summary, finish
from .formats import Format
from .fragments import Fragment
from .inputs.captions import CaptionsError, ReadOptions
from .inputs.find import Inputs, find_inputs
from .leases import Part, release, take_fragments
from .local_engine import LocalEngine
from .manifest import EMPTY_ID, Listing, Sidecar
from .plan import FORMAT, Plan, check_out, make_plan
from .read_fragment import check_first_caption
from .storage import Folder


class Engine(Protocol):
    """Where fragments are encoded."""

    def environment(self, encoder: Encoder) -> Environment:
        """Return what results depend on where they are computed."""

    def encode(
        self, job: Job, encoder: Encoder, fragments: Iterable[Fragment]
    ) -> Iterator[Sidecar]:
        """Encode fragments; yield the sidecar of each when it is written."""


Progress = Callable[[Summary, int], None]
"""Is told what was done, and how many rows there are."""


def ignore_progress(summary: Summary, rows: int) -> None:
    """Do nothing."""


def encode_captions(
    source: str,
    out: str,
    encoder: Encoder,
    format: Format,
    *,
    read: ReadOptions | None = None,
    fragment_size: int | None = None,
    part: Part | None = None,
    engine: Engine | None = None,
    verify: bool = False,
    prune: bool = False,
    progress: Progress = ignore_progress,
) -> Summary:
    """Encode the captions of *source* into the folder *out*, or do what is left of it.

    *verify* reads all files again, *prune* removes those that are not in the manifest. *progress*
    is told how many rows there are. Raises ``OutFolderError`` if *out* contains other files, or
    was planned with other settings.
    """
    read, engine = read or ReadOptions(), engine or LocalEngine()
    size = checked_size(format, fragment_size)
    folder = Folder(out)
    check_out(folder)
    folder.remove_stale_partials()
    inputs = find_inputs(source, folder, read)
    _check_apart(inputs, folder)
    check_first_caption(inputs, read)
    with writable(folder.local_path) if folder.is_local else nullcontext():
        return encode_inputs(
            inputs,
            folder,
            encoder,
            engine.environment(encoder),
            format,
            read=read,
            fragment_size=size,
            part=part or Part(),
            engine=engine,
            verify=verify,
            prune=prune,
            progress=progress,
        )


def checked_size(format: Format, fragment_size: int | None) -> int:
    """Return the rows of a fragment. Raises ``OptionError`` if there are none."""
    size = format.rows if fragment_size is None else fragment_size
    if size < 1:
        raise OptionError(f"A file must have one caption or more, not {size}.")
    return size


def encode_inputs(
    inputs: Inputs,
    out: Folder,
    encoder: Encoder,
    environment: Environment,
    format: Format,
    *,
    read: ReadOptions,
    fragment_size: int,
    part: Part,
    engine: Engine,
    verify: bool,
    prune: bool,
    progress: Progress,
) -> Summary:
    """Encode files that were found, as ``encode_captions`` does."""
    settings = {
        "format": FORMAT,
        "file_format": format.name,
        **format.chosen.as_json(),
        "fragment_size": fragment_size,
        "read": read.as_json(),
        **environment.settings,
    }
    format.check(settings)
    plan = make_plan(inputs, out, settings, read, threads=environment.threads)
    job = Job(Folder(plan.source), out, read, format, plan.settings, plan.threads)
    summary = Summary(fragments=len(plan), left_out=plan.left_out)
    _encode_missing(plan, job, encoder, part, engine, summary, progress)
    names = [fragment.id for fragment in plan.fragments()]
    finish(names, job, summary, verify=verify, prune=prune)
    return summary


def _check_apart(inputs: Inputs, out: Folder) -> None:
    """Check that neither folder contains the other."""
    if not (inputs.folder.is_local and out.is_local):
        return
    source, target = inputs.folder.local_path.resolve(), out.local_path.resolve()
    if source == target and inputs.tables and inputs.tables[0].name.startswith("_stdin-"):
        return
    if inputs.is_file:
        if not (source / inputs.tables[0].name).resolve().is_relative_to(target):
            return
    elif not (target.is_relative_to(source) or source.is_relative_to(target)):
        return
    raise CaptionsError(
        f"{out.url} and the captions in {inputs.folder.url} are one inside the other, so that "
        "embeddings and captions would be mixed. Choose another folder."
    )


def _encode_missing(
    plan: Plan,
    job: Job,
    encoder: Encoder,
    part: Part,
    engine: Engine,
    summary: Summary,
    progress: Progress,
) -> None:
    listing = Listing(job.out)
    whole = job.format.per_fragment
    progress(summary, plan.rows)
    todo = [one for one in plan.fragments() if not listing.done(one.id, per_fragment=whole)]
    fragments: Iterable[Fragment] = todo
    if part.of > 1:
        for one in todo:  # whose file may be gone
            if f"_done/{one.id}.json" in listing.files:
                job.out.remove(f"_done/{one.id}.json")
        fragments = take_fragments(job.out, todo, part)
    for sidecar in engine.encode(job, encoder, fragments):
        if part.of > 1:
            release(job.out, sidecar.id)
        if sidecar.id == EMPTY_ID:
            continue
        summary.encoded += sidecar.captions
        summary.counts.add(sidecar)
        progress(summary, plan.rows)
