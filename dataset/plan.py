"""Plans a data set: its settings, its input files and their fragments, in ``_plan.json``.

A folder has one plan. Files may be added to its input or changed there; they alone get new
fragments. Another input or other settings are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from ..sd2.errors import SD2ClipError, fault
from ..version import __version__
from .fragments import EmptyFragment, Fragment, Input, TableFile, TextGroup, group_texts, read_table
from .inputs.captions import CaptionsError, ReadOptions
from .inputs.find import Inputs
from .storage import Folder

PLAN = "_plan.json"
FORMAT = "sd2_clip.captions/2"

READERS = 16
"""Files that are counted at a time: on an object store each costs a few round trips."""


class OutFolderError(SD2ClipError):
    """A folder for embeddings contains something else, or was planned differently."""


@dataclass(frozen=True)
class Plan:
    """All that has to be done, in order."""

    settings: dict[str, Any]
    source: str
    """URL of the folder of the input."""
    inputs: Sequence[Input]
    threads: int
    """Of torch on the CPU: results depend on it, so all workers take this number."""
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def fragment_size(self) -> int:
        """Rows of a fragment."""
        size: int = self.settings["fragment_size"]
        return size

    def __len__(self) -> int:
        """Return the number of fragments, without that of the empty caption."""
        return sum(one.count(self.fragment_size) for one in self.inputs)

    def fragments(self) -> Iterator[Fragment]:
        """Iterate over the empty caption and all fragments; ids depend on the settings."""
        yield EmptyFragment()
        salt = json.dumps(self.settings, sort_keys=True)
        for one in self.inputs:
            yield from one.fragments(self.fragment_size, salt)

    @property
    def rows(self) -> int:
        """Rows of all fragments; of lists of captions, each may give several captions."""
        return sum(
            one.rows if isinstance(one, TableFile) else len(one.names) for one in self.inputs
        )

    def to_json(self) -> bytes:
        """Serialize the plan: one line for each input file, in order, nothing that varies."""
        head = {
            "settings": self.settings,
            "source": self.source,
            "threads": self.threads,
            "left_out": self.left_out,
            "version": __version__,
        }
        lines = [json.dumps(asdict(one)) for one in self.inputs]
        return (json.dumps(head)[:-1] + ', "inputs": [\n' + ",\n".join(lines) + "\n]}\n").encode()


def read_plan(out: Folder) -> Plan | None:
    """Read the plan of a folder; None if it has none. Raises ``OutFolderError``."""
    try:
        data = out.read(PLAN)
    except FileNotFoundError:
        return None
    try:
        found = json.loads(data)
        return Plan(
            settings=dict(found["settings"]),
            source=found["source"],
            inputs=[_input(one) for one in found["inputs"]],
            threads=int(found["threads"]),
            left_out=dict(found["left_out"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutFolderError(
            f"{out.path(PLAN)} is not a plan of encoded captions ({fault(error)}). Choose a new or "
            "empty folder."
        ) from error


def _input(found: dict[str, Any]) -> Input:
    if "names" in found:
        return TextGroup(tuple(found["names"]), found["version"])
    return TableFile(**{**found, "offsets": tuple(found["offsets"])})


def check_out(out: Folder) -> None:
    """Check that *out* is new, empty, or has a plan. Raises ``OutFolderError``."""
    if read_plan(out) is not None:
        return
    others = [file.name for file in out.files() if not file.name.startswith((".", "_"))]
    if others:
        raise OutFolderError(
            f"{out.url} contains other files ({', '.join(others[:3])}), which embeddings could "
            "overwrite. Choose a new or empty folder."
        )


def check_settings(out: Folder, settings: dict[str, Any]) -> Plan | None:
    """Check that *out* was planned with these settings, if at all; return its plan."""
    plan = read_plan(out)
    if plan is None:
        return None
    begun = plan.settings
    changed = [name for name in {**begun, **settings} if begun.get(name) != settings.get(name)]
    if changed:
        changes = "; ".join(f"{n}: {begun.get(n)}, now {settings.get(n)}" for n in changed)
        raise OutFolderError(
            f"{out.url} contains captions encoded with other settings ({changes}). Choose a new "
            "or empty folder, or use the same checkpoint and settings to go on."
        )
    return plan


def make_plan(
    inputs: Inputs, out: Folder, settings: dict[str, Any], options: ReadOptions, *, threads: int
) -> Plan:
    """Plan the encoding of *inputs*, or take the plan that *out* has and add what is new.

    Only files that the old plan does not know are read. Raises ``OutFolderError`` for another
    plan, ``CaptionsError`` if there are no captions.
    """
    before = check_settings(out, settings)
    size: int = settings["fragment_size"]
    known = {_identity(one): one for one in before.inputs} if before is not None else {}

    def table(index: int) -> TableFile:
        file = inputs.tables[index]
        found = known.get((file.name, file.size, file.version))
        if isinstance(found, TableFile):
            return found
        return read_table(inputs.folder, file, size, options)

    with ThreadPoolExecutor(READERS) as pool:
        tables = list(pool.map(table, range(len(inputs.tables))))
    parts: list[Input] = [*tables, *group_texts(inputs.texts, size)]
    source = inputs.folder.url
    if before is not None and before.source != source and not {*map(_identity, parts)} & {*known}:
        raise OutFolderError(
            f"{out.url} was planned for the captions in {before.source}, none of which are in "
            f"{source}. Choose a new or empty folder."
        )
    plan = Plan(
        settings=settings,
        source=source,
        inputs=parts,
        threads=before.threads if before is not None else threads,
        left_out=inputs.left_out,
    )
    if plan.rows == 0:
        raise CaptionsError(f"{source} contains no captions.")
    data = plan.to_json()
    if before is None or before.to_json() != data:
        out.write(PLAN, data)
    return plan


def _identity(one: Input) -> tuple[Any, ...]:
    if isinstance(one, TextGroup):
        return (one.version,)
    return one.name, one.size, one.version
