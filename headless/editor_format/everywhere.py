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

from .document import BYPASSED, MUTED, OUTPUT_NODE, UiDocument, UiGraph, UiLink, UiNode

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
        entry = node.inputs[link.target_slot]
        if entry.link in links:  # drawn, and so it counts
            continue
        inputs = list(node.inputs)
        inputs[link.target_slot] = replace(entry, link=link_id)
        nodes[node.id] = replace(node, inputs=tuple(inputs))
        links[link_id] = link
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
    for type, links in sources.items():
        if len(links) > 1:
            notes.append(f"{len(links)} senders of {type} are in this workflow; {_REMEDY}")
            continue
        for node in graph.nodes.values():
            if node.type in SENDERS or node.id == links[0].origin_id:
                continue
            for slot, entry in enumerate(node.inputs):
                if entry.type == type and entry.link is None and entry.widget is None:
                    yield UiLink(links[0].origin_id, links[0].origin_slot, node.id, slot)


def _is_restricted(node: UiNode) -> bool:
    stated: Any = node.properties.get("ue_properties")
    return isinstance(stated, dict) and any(stated.get(name) for name in RESTRICTIONS)
