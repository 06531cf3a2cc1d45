"""Orders and cycles of a graph that is given as ``{id: [ids it needs]}``. Iterative, linear."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence


def sort_sources_first(
    nodes: Sequence[str], sources: Mapping[str, Iterable[str]]
) -> tuple[list[str], list[str]]:
    """``nodes`` with everything after what it needs, and the nodes for which there is no such
    order: those on a cycle and those that need one. ``sources`` lists each needed node once."""
    waiting = dict.fromkeys(nodes, 0)
    users: dict[str, list[str]] = {node: [] for node in nodes}
    for node in nodes:
        for source in sources[node]:
            waiting[node] += 1
            users[source].append(node)
    order = [node for node in nodes if not waiting[node]]
    for node in order:  # grows while it is walked
        for user in users[node]:
            waiting[user] -= 1
            if not waiting[user]:
                order.append(user)
    return order, [node for node in nodes if waiting[node]]


def find_cycles(
    left_over: Collection[str], sources: Mapping[str, Iterable[str]]
) -> list[list[str]]:
    """Cycles among the nodes that could not be sorted, each as ``[a, b, c]``: a needs b, b needs
    c, c needs a. At least one is found for every node, on it or among what it needs."""
    stuck = set(left_over)
    walked: set[str] = set()
    cycles = []
    for start in left_over:
        path: dict[str, None] = {}
        node = start
        while node not in walked:
            walked.add(node)
            path[node] = None
            # Every node that could not be sorted needs another such node.
            node = next(source for source in sources[node] if source in stuck)
        if node in path:
            steps = list(path)
            cycles.append(steps[steps.index(node) :])
    return cycles
