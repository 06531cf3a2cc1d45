"""Unfolds subgraphs: each instance of one becomes a scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...sd2.files.limits import MAX_WORKFLOW_NODES
from ..node_class import NodeClasses
from ..topological import sort_sources_first
from ..workflow_errors import WorkflowError
from .document import BYPASSED, MUTED, UiDocument, UiGraph, UiNode
from .widgets import has_widget

Promoted = Mapping[str, tuple[str, str]]
"""Input of a subgraph -> node id and name of the widget in it that the input is linked to. Only the
inputs that end at a widget, through any number of subgraphs, in order."""


@dataclass(eq=False)
class Scope:
    """The workflow itself, or one instance of a subgraph in it."""

    graph: UiGraph
    prefix: str = ""
    """Prefix of its nodes' ids in the prompt: ``"5:3:"`` for instance 3 in instance 5."""
    parent: Scope | None = None
    instance: UiNode | None = None
    """The node of the parent that represents this instance."""
    host_values: dict[str, Any] = field(default_factory=dict)
    """The values of promoted widgets that the instance stores, by input of the subgraph."""
    inner_values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node id -> widget -> the value that the instance stores, where no input leads to it."""
    promoted: Promoted = field(default_factory=dict)
    children: dict[str, Scope] = field(default_factory=dict)


def open_scopes(document: UiDocument, classes: NodeClasses) -> list[Scope]:
    """Return the scope of the workflow, then those of all its active subgraph instances.

    Raises:
        WorkflowError: if a subgraph contains itself.
    """
    promoted, endless = _promoted_inputs(document, classes)
    scopes = [Scope(document.root)]
    count = 0
    for scope in scopes:  # grows while it is walked
        # Each node has an id that begins with the prefix, and each instance values of its own.
        count += len(scope.graph.nodes) * (1 + len(scope.prefix) // 64)
        count += len(scope.host_values) // 10
        count += sum(map(len, scope.inner_values.values())) // 10
        if count > MAX_WORKFLOW_NODES:
            raise WorkflowError(f"its subgraphs unfold into more than {MAX_WORKFLOW_NODES:,} nodes")
        for node in scope.graph.nodes.values():
            graph = document.subgraphs.get(node.type)
            if graph is None or node.mode in (MUTED, BYPASSED):
                continue
            if node.type in endless:
                raise WorkflowError(f"{node.label}: the subgraph {graph.name!r} contains itself")
            child = Scope(graph, f"{scope.prefix}{node.id}:", scope, node)
            child.promoted = promoted[node.type]
            _read_values(child, node, child.promoted)
            # The values of an outer proxy take precedence over the instance's own.
            child.host_values |= scope.inner_values.get(node.id, {})
            scope.children[node.id] = child
            scopes.append(child)
    return scopes


def _promoted_inputs(
    document: UiDocument, classes: NodeClasses
) -> tuple[dict[str, Promoted], set[str]]:
    """Find ``Promoted`` of every subgraph, and those that contain themselves, which have none."""
    subgraphs = document.subgraphs
    inner = {
        name: list(dict.fromkeys(n.type for n in graph.nodes.values() if n.type in subgraphs))
        for name, graph in subgraphs.items()
    }
    order, endless = sort_sources_first(inner)
    promoted: dict[str, Promoted] = {}
    for name in order:
        found = {}
        for slot, input_name in enumerate(subgraphs[name].input_names):
            widget = _widget_behind(subgraphs[name], slot, promoted, classes)
            if widget is not None:
                found[input_name] = widget
        promoted[name] = found
    return promoted, set(endless)


def _widget_behind(
    graph: UiGraph, slot: int, promoted: Mapping[str, Promoted], classes: NodeClasses
) -> tuple[str, str] | None:
    for link_id in graph.links_from_inputs.get(slot, ()):
        node = graph.nodes.get(graph.links[link_id].target_id)
        entry = next((e for e in node.inputs if e.link == link_id), None) if node else None
        if node is None or entry is None:
            continue
        if node.type in promoted:
            is_widget = entry.name in promoted[node.type]
        else:
            spec = classes[node.type].spec(entry.name) if node.type in classes else None
            is_widget = entry.widget is not None or (spec is not None and has_widget(spec))
        if is_widget:
            return node.id, entry.widget or entry.name
    return None


def _read_values(scope: Scope, instance: UiNode, promoted: Promoted) -> None:
    """Read the widget values that an instance stores in place of its inner nodes' values."""
    values, named = instance.values, instance.named_values
    if isinstance(values, list) and instance.proxy_widgets:
        _read_proxies(scope, instance.proxy_widgets, values, promoted)
    elif isinstance(values, list) and (named is None or len(values) == len(promoted)):
        scope.host_values |= _present(dict(zip(promoted, values, strict=False)))
    elif isinstance(values, dict):
        scope.host_values |= _present(values)
    for name, value in _present(named or {}).items():
        scope.host_values.setdefault(name, value)


def _read_proxies(
    scope: Scope,
    proxies: tuple[tuple[str, str], ...],
    values: list[Any],
    promoted: Promoted,
) -> None:
    """Read values by the list ``proxyWidgets`` (2025): inner widgets shown on the instance,
    whether or not an input of the subgraph leads to them."""
    input_of = {source: name for name, source in promoted.items()}
    for (node_id, widget), value in zip(proxies, values, strict=False):
        if value is None:
            continue
        if node_id == "-1":
            scope.host_values[widget] = value
        elif (node_id, widget) in input_of:
            scope.host_values[input_of[node_id, widget]] = value
        else:
            scope.inner_values.setdefault(node_id, {})[widget] = value


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop nulls: for those, the inner node's own value counts."""
    return {name: value for name, value in values.items() if value is not None}
