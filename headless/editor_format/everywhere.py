"""Adds the links that the pack cg-use-everywhere makes without drawing them.

Its node "Anything Everywhere" sends what it reads to every input of the same type that has no link
and no widget. The editor records these links when it saves (``extra.ue_links``). Where the record
is missing, only the plain rule is followed: restrictions to names, groups and colours, and two
senders of one type, are for the pack itself to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from .document import BYPASSED, MUTED, OUTPUT_NODE, UiDocument, UiGraph, UiInput, UiLink, UiNode

SENDERS = frozenset(
    {"Anything Everywhere", "Anything Everywhere3", "Anything Everywhere?", "Prompts Everywhere"}
)

UNRESTRICTED = frozenset({"Anything Everywhere", "Anything Everywhere3"})
"""The senders that send to every input unless they are restricted."""

RESTRICTIONS = (
    *("title_regex", "input_regex", "group_regex", "group_restricted", "color_restricted"),
    *("apply_to_unrepeated", "string_to_combo", "send_to_any"),
)

_REMEDY = 'in the editor, choose "Convert all UEs to real links"'


def add_sent_links(document: UiDocument) -> UiDocument:
    """Return the document with the links that are sent."""
    return replace(
        document,
        root=_connect(document.root),
        subgraphs={name: _connect(graph) for name, graph in document.subgraphs.items()},
    )


def _connect(graph: UiGraph) -> UiGraph:
    notes: list[str] = []
    sent: Iterable[UiLink] = graph.sent_links or ()
    if graph.sent_links is None:
        sent = _send_by_type(graph, notes)
    nodes, links, outputs = dict(graph.nodes), dict(graph.links), list(graph.output_links)
    changed: dict[str, list[UiInput]] = {}
    for number, link in enumerate(sent):
        link_id = f"sent:{number}"
        if link.target_id == OUTPUT_NODE:
            if 0 <= link.target_slot < len(outputs) and outputs[link.target_slot] is None:
                outputs[link.target_slot] = link_id
                links[link_id] = link
            continue
        node = nodes.get(link.target_id)
        if node is None or not 0 <= link.target_slot < len(node.inputs):
            continue
        if node.id not in changed:
            changed[node.id] = list(node.inputs)
        inputs = changed[node.id]
        entry = inputs[link.target_slot]
        if entry.link in links:  # drawn, and so it counts
            continue
        inputs[link.target_slot] = replace(entry, link=link_id)
        links[link_id] = link
    for node_id, inputs in changed.items():
        nodes[node_id] = replace(nodes[node_id], inputs=tuple(inputs))
    return replace(
        graph, nodes=nodes, links=links, output_links=tuple(outputs), notes=(*graph.notes, *notes)
    )


def _send_by_type(graph: UiGraph, notes: list[str]) -> Iterable[UiLink]:
    """Find the links that no restriction and no second sender makes doubtful."""
    sources: dict[str, list[UiLink]] = {}
    for node in graph.nodes.values():
        if node.type not in SENDERS or node.mode in (MUTED, BYPASSED):
            continue
        read = [(e.type, graph.links[e.link]) for e in node.inputs if e.link in graph.links]
        if node.type not in UNRESTRICTED or _is_restricted(node):
            notes.append(f"{node.label}: the file does not record where it sends to; {_REMEDY}")
            continue
        for type, link in read:
            origin = graph.nodes.get(link.origin_id)
            if origin is not None and 0 <= link.origin_slot < len(origin.output_types):
                type = origin.output_types[link.origin_slot]
            sources.setdefault(type, []).append(link)
    free: dict[str, list[tuple[str, int]]] = {}
    for node in graph.nodes.values() if sources else ():
        if node.type not in SENDERS:
            for slot, entry in enumerate(node.inputs):
                if entry.link is None and entry.widget is None:
                    free.setdefault(entry.type, []).append((node.id, slot))
    for type, links in sources.items():
        if len(links) > 1:
            notes.append(f"{len(links)} senders of {type} are in this workflow; {_REMEDY}")
            continue
        for node_id, slot in free.get(type, ()):
            if node_id != links[0].origin_id:
                yield UiLink(links[0].origin_id, links[0].origin_slot, node_id, slot)


def _is_restricted(node: UiNode) -> bool:
    stated: Any = node.properties.get("ue_properties")
    return isinstance(stated, dict) and any(stated.get(name) for name in RESTRICTIONS)
