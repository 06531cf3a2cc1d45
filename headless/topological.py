"""Sorts a graph ``{id: [ids that it depends on]}``, and finds its cycles; both in linear time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter


def sort_sources_first(sources: Mapping[str, Iterable[str]]) -> tuple[list[str], list[str]]:
    """Sort the nodes so that each comes after its sources.

    Also returned are the nodes that cannot be sorted: those on a cycle, and those that depend on
    one. Every source is a key of ``sources`` too.
    """
    sorter = TopologicalSorter(sources)
    with suppress(CycleError):  # the sorter still yields all nodes that no cycle blocks
        sorter.prepare()
    order: list[str] = []
    while ready := sorter.get_ready():
        order += ready
        sorter.done(*ready)
    done = set(order)
    return order, [node for node in sources if node not in done]


def find_cycles(unsorted: Collection[str], sources: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Find cycles among the nodes that cannot be sorted.

    ``[a, b, c]`` means: a depends on b, b on c, c on a. For every node, at least one cycle is
    found that it lies on or depends on.
    """
    stuck = set(unsorted)
    walked: set[str] = set()
    cycles = []
    for start in unsorted:
        path: dict[str, None] = {}
        node = start
        while node not in walked:
            walked.add(node)
            path[node] = None
            # Every node that cannot be sorted depends on another such node.
            node = next(source for source in sources[node] if source in stuck)
        if node in path:
            steps = list(path)
            cycles.append(steps[steps.index(node) :])
    return cycles
