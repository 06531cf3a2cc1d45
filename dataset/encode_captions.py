"""Encodes a data set: plans it, encodes the fragments that are not done, finishes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ..sd2.errors import OptionError
from ..sd2.files.atomic_write import check_writable
from .caption_encoder import CaptionEncoder
from .encode_fragment import FragmentEncoder, Job
from .formats import Format
from .fragments import Fragment
from .inputs.captions import CaptionsError, ReadOptions
from .inputs.find import Inputs, find_inputs
from .leases import release, take_fragments
from .local_engine import Part, encode_fragments
from .manifest import (
    EMPTY_ID,
    MANIFEST,
    Counts,
    IncompleteError,
    Listing,
    Sidecar,
    damaged_files,
    forget,
    read_sidecars,
    stale_files,
    write_manifest,
)
from .plan import FORMAT, Plan, check_out, check_settings, make_plan
from .read_fragment import check_first_caption
from .storage import Folder


@dataclass
class Summary:
    """What became of a data set."""

    counts: Counts = field(default_factory=Counts)
    """Of all fragments that are done; complete only if ``missing`` is 0."""
    fragments: int = 0
    encoded: int = 0
    """Captions that this process encoded, of which each fragment's distinct ones were computed."""
    missing: int = 0
    """Fragments that are not done yet: those of other parts."""
    stale_files: int = 0
    """Files of an earlier plan, which nothing needs any more."""
    pruned: int = 0
    """Of those, the ones that were removed."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Files of the input without a partner, counted."""


class Engine(Protocol):
    """Encodes fragments somewhere; yields the sidecar of each when it is written."""

    def __call__(
        self, job: Job, encoder: CaptionEncoder, fragments: Iterable[Fragment]
    ) -> Iterator[Sidecar]: ...


def local_engine(
    job: Job, encoder: CaptionEncoder, fragments: Iterable[Fragment]
) -> Iterator[Sidecar]:
    """Encode in this process."""
    worker = FragmentEncoder(job, encoder)
    try:
        yield from encode_fragments(worker, fragments)
    finally:
        worker.close()


def encode_captions(
    source: str,
    out: str,
    encoder: CaptionEncoder,
    format: Format,
    *,
    read: ReadOptions | None = None,
    fragment_size: int | None = None,
    part: Part | None = None,
    engine: Engine = local_engine,
    verify: bool = False,
    prune: bool = False,
    progress: Callable[[Summary, int], None] = lambda summary, rows: None,
) -> Summary:
    """Encode the captions of *source* into the folder *out*, or do what is left of it.

    *verify* reads all files again, *prune* removes those that are not in the manifest. *progress*
    is told how many rows there are. Raises ``OutFolderError`` if *out* contains other files, or
    was planned with other settings.
    """
    read, part = read or ReadOptions(), part or Part()
    size = format.rows if fragment_size is None else fragment_size
    if size < 1:
        raise OptionError(f"A file must have one caption or more, not {size}.")
    folder = Folder(out)
    check_out(folder)
    folder.remove_stale_partials()
    inputs = find_inputs(source, folder, read)
    _check_apart(inputs, folder)
    check_first_caption(inputs, read)
    if folder.is_local:
        check_writable(folder.local_path)
    settings = {
        "format": FORMAT,
        "file_format": format.name,
        **format.chosen.as_json(),
        "fragment_size": size,
        "read": read.as_json(),
        **encoder.settings(),
    }
    format.check(settings)
    plan = make_plan(inputs, folder, settings, read, threads=torch.get_num_threads())
    torch.set_num_threads(plan.threads)
    job = Job(Folder(plan.source), folder, read, format, plan.settings, plan.threads)
    summary = Summary(fragments=len(plan), left_out=plan.left_out)
    _encode_missing(plan, job, encoder, part, engine, summary, progress)
    _finish(plan, job, summary, verify=verify, prune=prune)
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
    encoder: CaptionEncoder,
    part: Part,
    engine: Engine,
    summary: Summary,
    progress: Callable[[Summary, int], None],
) -> None:
    listing = Listing(job.out)
    whole = job.format.per_fragment
    progress(summary, plan.rows)
    if not listing.done(EMPTY_ID, per_fragment=whole):
        worker = FragmentEncoder(job, encoder)
        worker.write(*worker.encode(worker.prepare_empty()))
    todo = [one for one in plan.fragments() if not listing.done(one.id, per_fragment=whole)]
    fragments: Iterable[Fragment] = todo
    if part.of > 1:
        for one in todo:  # whose file may be gone
            if f"_done/{one.id}.json" in listing.files:
                job.out.remove(f"_done/{one.id}.json")
        fragments = take_fragments(job.out, todo, part)
    for sidecar in engine(job, encoder, fragments):
        if part.of > 1:
            release(job.out, sidecar.id)
        summary.encoded += sidecar.captions
        summary.counts.add(sidecar)
        progress(summary, plan.rows)


def _finish(plan: Plan, job: Job, summary: Summary, *, verify: bool, prune: bool) -> None:
    """Write the manifest if all fragments are done."""
    listing = Listing(job.out)
    whole = job.format.per_fragment
    names = [EMPTY_ID, *(one.id for one in plan.fragments())]
    done = [name for name in names if listing.done(name, per_fragment=whole)]
    sidecars = list(read_sidecars(job.out, done))
    summary.counts = Counts()
    for sidecar in sidecars:
        if sidecar.id != EMPTY_ID:
            summary.counts.add(sidecar)
    summary.missing = len(names) - len(done)
    if verify:
        _verify(job.out, sidecars)
    if summary.missing:
        return
    stale = stale_files(listing, sidecars)
    summary.stale_files = len(stale)
    check_settings(job.out, plan.settings)  # another process may have planned in between
    write_manifest(job.out, plan.settings, plan.left_out, sidecars)
    job.format.finish(job.out, sidecars, plan.settings)
    if prune:
        for name in stale:
            job.out.remove(name)
        summary.pruned = len(stale)


def _verify(out: Folder, sidecars: list[Sidecar]) -> None:
    problems = []
    for sidecar, problem in damaged_files(out, sidecars):
        forget(out, sidecar)
        problems.append(problem)
    if problems:
        out.remove(MANIFEST)
        raise IncompleteError(
            f"{out.url}: {len(problems)} files are damaged: {'; '.join(problems[:5])}. Run "
            "sd2-clip encode again with the same options; it encodes their captions again."
        )
