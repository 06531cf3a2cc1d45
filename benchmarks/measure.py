"""Paired measurements: the compared functions run in turns, so that load affects all of them.

With ``OMP_NUM_THREADS=1`` the clock is processor time, which other programs hardly change; else it
is wall-clock time, which is valid only on an idle machine.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

Work = Callable[[], object]

ONE_THREAD = os.environ.get("OMP_NUM_THREADS") == "1"
clock = time.process_time if ONE_THREAD else time.perf_counter


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float | None
    """None: not measured; ``note`` gives the reason."""
    unit: str
    limit: float | None = None
    at_least: bool = False
    """Whether ``limit`` is a lower bound."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None or self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        value = "–" if self.value is None else f"{self.value:.3g} {self.unit}"
        sign = "≥" if self.at_least else "≤"
        limit = "" if self.limit is None else f"{sign} {self.limit:g}"
        met = {True: "met", False: "MISSED", None: ""}[self.met]
        return f"| {self.what} | {value} | {limit} | {met} | {self.note} |"


HEADER = "| what | measured | target | | |\n|---|---|---|---|---|"


def to_json(rows: list[Row]) -> str:
    return json.dumps([{**asdict(row), "met": row.met} for row in rows], indent=1)


def from_json(text: str) -> list[Row]:
    return [
        Row(**{name: value for name, value in row.items() if name != "met"})
        for row in json.loads(text)
    ]


def paired(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time each function in each round, after one warm-up round; in seconds."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            started = clock()
            work()
            if number:
                times[name].append(clock() - started)
    return times


def ratio(times: Mapping[str, list[float]], ours: str, peer: str) -> float:
    """Return the median over rounds of time(*ours*) / time(*peer*)."""
    return statistics.median(a / b for a, b in zip(times[ours], times[peer], strict=True))


def milliseconds(times: Mapping[str, list[float]], name: str) -> float:
    return 1000 * statistics.median(times[name])


def absolute(times: Mapping[str, list[float]]) -> str:
    """Format the median time of each function, for a note."""
    return ", ".join(f"{name} {milliseconds(times, name):.3g} ms" for name in times)
