"""Finishes a data set: counts it, writes its manifest, verifies and prunes its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .encode_fragment import Job
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
from .plan import check_settings
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
    keys: int | None = None
    """Captions of the input, if the set has its distinct ones only; ``None``: it has all."""


def finish(
    names: Sequence[str], job: Job, summary: Summary, *, verify: bool = False, prune: bool = False
) -> None:
    """Count what is done of the fragments *names*; if it is all, write the manifest.

    *verify* reads all files again, *prune* removes those that are not in the manifest. Raises
    ``IncompleteError`` for damaged files, and makes the next run encode their captions again.
    """
    listing = Listing(job.out)
    whole = job.format.per_fragment
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
    check_settings(job.out, job.settings)  # another process may have planned in between
    write_manifest(job.out, job.settings, summary.left_out, sidecars)
    job.format.finish(job.out, sidecars, job.settings)
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
