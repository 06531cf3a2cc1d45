"""Subgraphs unfolded: every instance of a subgraph is a scope of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import BrokenWorkflowError
from .node_class import NodeClasses
from .ui_document import BYPASSED, MUTED, UiDocument, UiGraph, UiNode
from .ui_widgets import has_widget

MOST_NODES = 1_000_000
"""Subgraphs may double at each level; this ends a workflow that means to fill the memory."""


@dataclass(eq=False)
class Scope:
    """The workflow itself, or one instance of a subgraph in it."""

    graph: UiGraph
    prefix: str = ""
    """What stands before the ids of its nodes in the prompt: ``"5:3:"`` in instance 3 of 5."""
    parent: Scope | None = None
    instance: UiNode | None = None
    """The node of the parent that stands for this."""
    host_values: dict[str, Any] = field(default_factory=dict)
    """The values that the instance holds for inputs of the subgraph (promoted widgets)."""
    inner_values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node id -> widget -> the value that the instance holds for it without such an input."""
    children: dict[str, Scope] = field(default_factory=dict)


def open_scopes(document: UiDocument, classes: NodeClasses) -> list[Scope]:
    """The scope of the workflow, then those of all its live subgraph instances.

    Raises:
        BrokenWorkflowError: if a subgraph contains itself.
    """
    scopes = [Scope(document.root)]
    lineages: list[tuple[str, ...]] = [()]
    count = 0
    for index, scope in enumerate(scopes):  # grows while it is walked
        count += len(scope.graph.nodes)
        if count > MOST_NODES:
            raise BrokenWorkflowError(f"its subgraphs unfold into more than {MOST_NODES} nodes")
        for node in scope.graph.nodes.values():
            graph = document.subgraphs.get(node.type)
            if graph is None or node.mode in (MUTED, BYPASSED):
                continue
            if node.type in lineages[index]:
                raise BrokenWorkflowError(f"{node.label}: the subgraph {graph.name!r} is in itself")
            child = Scope(graph, f"{scope.prefix}{node.id}:", scope, node)
            _read_promoted(child, node, document, classes)
            child.host_values |= scope.inner_values.get(node.id, {})
            scope.children[node.id] = child
            scopes.append(child)
            lineages.append((*lineages[index], node.type))
    return scopes


def _read_promoted(
    scope: Scope, instance: UiNode, document: UiDocument, classes: NodeClasses
) -> None:
    """The widget values that a subgraph's instance holds in place of its inner nodes'."""
    graph = scope.graph
    sources = {
        name: source
        for slot, name in enumerate(graph.input_names)
        if (source := _promoted_widget(graph, slot, document, classes)) is not None
    }
    values = instance.values
    if isinstance(values, list) and instance.proxy_widgets:
        _read_proxies(scope, instance.proxy_widgets, values, sources)
    elif isinstance(values, list):
        scope.host_values |= _present(dict(zip(sources, values, strict=False)))
    elif isinstance(values, dict):
        scope.host_values |= _present(values)
    if instance.named_values is not None:
        scope.host_values |= _present(instance.named_values)


def _read_proxies(
    scope: Scope,
    proxies: tuple[tuple[str, str], ...],
    values: list[Any],
    sources: Mapping[str, tuple[str, str]],
) -> None:
    """Values by the list ``proxyWidgets`` (2025): inner widgets shown on the instance, whether or
    not an input of the subgraph leads to them."""
    input_of = {source: name for name, source in sources.items()}
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
    """Without holes: null means that the inner node's own value counts."""
    return {name: value for name, value in values.items() if value is not None}


def _promoted_widget(
    graph: UiGraph, slot: int, document: UiDocument, classes: NodeClasses
) -> tuple[str, str] | None:
    """Node id and name of the widget right inside that a subgraph's input leads to, if it does,
    through any number of subgraphs."""
    for link_id in graph.links_from_inputs.get(slot, ()):
        target = graph.nodes.get(graph.links[link_id].target_id)
        entry = next((e for e in target.inputs if e.link == link_id), None) if target else None
        if target is None or entry is None:
            continue
        if _ends_at_widget(target, entry.name, document, classes):
            return target.id, entry.widget or entry.name
    return None


def _ends_at_widget(
    node: UiNode, input_name: str, document: UiDocument, classes: NodeClasses
) -> bool:
    stack = [(node, input_name)]
    seen = set(stack)
    while stack:
        node, input_name = stack.pop()
        graph = document.subgraphs.get(node.type)
        if graph is None:
            entry = node.input(input_name)
            if entry is not None and entry.widget is not None:
                return True
            if node.type in classes:
                spec = classes[node.type].spec(input_name)
                if spec is not None and has_widget(spec):
                    return True
            continue
        if input_name not in graph.input_names:
            continue
        for link_id in graph.links_from_inputs.get(graph.input_names.index(input_name), ()):
            target = graph.nodes.get(graph.links[link_id].target_id)
            entry = next((e for e in target.inputs if e.link == link_id), None) if target else None
            if target is not None and entry is not None and (target, entry.name) not in seen:
                seen.add((target, entry.name))
                stack.append((target, entry.name))
    return False
