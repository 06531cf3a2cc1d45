"""Parses a workflow in the editor's format: nodes, links, subgraph definitions.

Schema 0.4 (links as arrays) and 1 (links as objects), also mixed; ids as numbers or text. Links
are not followed here; ``to_prompt`` does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...sd2.files.limits import MAX_NODE_NAME
from ..graph import check_name
from ..workflow_errors import WorkflowError

INPUT_NODE = "-10"
"""The id of a subgraph's inputs, as the origin of links inside it."""

OUTPUT_NODE = "-20"
"""The id of a subgraph's outputs, as the target of links inside it."""

MUTED = 2
BYPASSED = 4

SETTERS = frozenset({"SetNode", "easy setNode"})
"""Nodes of KJNodes and Easy-Use that give a name to a source."""


@dataclass(frozen=True, slots=True)
class UiInput:
    """An input socket. ``link`` is the id of the link to it."""

    name: str
    type: str
    link: str | None
    widget: str | None = None
    """The name of the widget that the socket replaces, if there is one."""


@dataclass(frozen=True, slots=True, eq=False)
class UiNode:
    id: str
    type: str
    title: str | None
    mode: int
    inputs: tuple[UiInput, ...]
    output_types: tuple[str, ...]
    values: list[Any] | dict[str, Any] | None
    """``widgets_values``: by position; of some packs by name."""
    named_values: dict[str, Any] | None
    """``widgets_values_named``, which new editors save in addition."""
    properties: Mapping[str, Any]
    proxy_widgets: tuple[tuple[str, str], ...]
    """On an instance of a subgraph: node id and widget name of each inner widget shown on it."""

    def input(self, name: str) -> UiInput | None:
        return next((entry for entry in self.inputs if entry.name == name), None)

    @property
    def source_name(self) -> str | None:
        """The name that a ``SetNode`` gives to its source, and a ``GetNode`` reads it by."""
        name = self.values[0] if isinstance(self.values, list) and self.values else None
        return name if isinstance(name, str) and name else None

    @property
    def label(self) -> str:
        return f"node {self.id} ({(self.title or self.type)[:MAX_NODE_NAME]})"


@dataclass(frozen=True, slots=True)
class UiLink:
    origin_id: str
    origin_slot: int
    target_id: str
    target_slot: int


@dataclass(frozen=True)
class UiGraph:
    """The nodes and links of the workflow itself, or of a subgraph."""

    nodes: dict[str, UiNode]
    links: dict[str, UiLink]
    name: str = ""
    input_names: tuple[str, ...] = ()
    output_links: tuple[str | None, ...] = ()
    """For each output of a subgraph, the id of the link to it."""
    sent_links: tuple[UiLink, ...] | None = None
    """What "Anything Everywhere" nodes sent when the workflow was saved; None if not recorded."""
    notes: tuple[str, ...] = ()
    """What could not be followed, for a person to read."""

    @cached_property
    def links_from_inputs(self) -> dict[int, list[str]]:
        """For each input of a subgraph, the ids of the links from it."""
        found: dict[int, list[str]] = {}
        for link_id, link in self.links.items():
            if link.origin_id == INPUT_NODE:
                found.setdefault(link.origin_slot, []).append(link_id)
        return found

    @cached_property
    def setters(self) -> dict[str, UiNode]:
        """The nodes that give a name to a source, by that name; the first of several."""
        found: dict[str, UiNode] = {}
        for node in self.nodes.values():
            if node.type in SETTERS and (name := node.source_name) is not None:
                found.setdefault(name, node)
        return found


@dataclass(frozen=True)
class UiDocument:
    root: UiGraph
    subgraphs: dict[str, UiGraph] = field(default_factory=dict)
    group_nodes: frozenset[str] = frozenset()
    """Names of the group nodes of old editors (2024), which subgraphs replaced."""


def read_ui_document(document: Mapping[str, Any]) -> UiDocument:
    """Read a saved workflow.

    Raises:
        WorkflowError: naming the node or link that cannot be read.
    """
    subgraphs = {}
    pending = [document]
    while pending:
        definitions = _mapping(pending.pop().get("definitions"))
        for definition in _list(definitions.get("subgraphs")):
            definition = _mapping(definition)
            subgraphs[str(definition.get("id"))] = _read_graph(definition)
            pending.append(definition)
    groups = _mapping(_mapping(document.get("extra")).get("groupNodes"))
    return UiDocument(_read_graph(document), subgraphs, frozenset(groups))


def _read_graph(graph: Mapping[str, Any]) -> UiGraph:
    nodes = {}
    for raw in _list(graph.get("nodes")):
        node = _read_node(raw)
        if node.id in nodes:
            raise WorkflowError(f"{node.label}: two nodes have this id")
        nodes[node.id] = node
    links = dict(_read_links(graph.get("links")))
    into_outputs = {
        link.target_slot: link_id
        for link_id, link in links.items()
        if link.target_id == OUTPUT_NODE
    }
    outputs = _list(graph.get("outputs"))
    return UiGraph(
        nodes=nodes,
        links=links,
        name=str(graph.get("name") or ""),
        input_names=tuple(str(_mapping(slot).get("name")) for slot in _list(graph.get("inputs"))),
        output_links=tuple(into_outputs.get(slot) for slot in range(len(outputs))),
        sent_links=_read_sent_links(_mapping(graph.get("extra")).get("ue_links")),
    )


def _read_node(raw: Any) -> UiNode:
    if not isinstance(raw, Mapping) or "id" not in raw or not isinstance(raw.get("type"), str):
        raise WorkflowError(f"a node has no id or no type: {str(raw)[:100]}")
    node_id = str(raw["id"])
    check_name(node_id, node_id)
    check_name(node_id, raw["type"])
    values = raw.get("widgets_values")
    named = raw.get("widgets_values_named")
    title = raw.get("title")
    mode = raw.get("mode")
    return UiNode(
        id=node_id,
        type=raw["type"],
        title=title if isinstance(title, str) and title else None,
        mode=mode if isinstance(mode, int) else 0,
        inputs=tuple(_read_input(entry) for entry in _list(raw.get("inputs"))),
        output_types=tuple(_type(_mapping(entry)) for entry in _list(raw.get("outputs"))),
        values=values if isinstance(values, (list, dict)) else None,
        named_values=named if isinstance(named, dict) else None,
        properties=_mapping(raw.get("properties")),
        proxy_widgets=tuple(
            (str(entry[0]), str(entry[1]))
            for entry in _list(_mapping(raw.get("properties")).get("proxyWidgets"))
            if isinstance(entry, list) and len(entry) >= 2
        ),
    )


def _read_input(raw: Any) -> UiInput:
    raw = _mapping(raw)
    link, widget = raw.get("link"), raw.get("widget")
    return UiInput(
        name=str(raw.get("name") or ""),
        type=_type(raw),
        link=None if link is None else str(link),
        widget=str(widget["name"]) if isinstance(widget, Mapping) and "name" in widget else None,
    )


def _type(slot: Mapping[str, Any]) -> str:
    """Read the type of a slot: ``*`` if it has none, ``COMBO`` if it lists choices."""
    found = slot.get("type")
    if isinstance(found, list):
        return "COMBO"
    return found if isinstance(found, str) else "*"


def _read_links(raw: Any) -> Iterator[tuple[str, UiLink]]:
    for link in raw.values() if isinstance(raw, Mapping) else _list(raw):
        if link is None:
            continue
        if isinstance(link, Mapping):
            keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            parts = [link.get(key) for key in keys]
        else:
            parts = _list(link)[:5]
        made = _make_link(*parts[1:5]) if len(parts) == 5 else None
        if made is None:
            raise WorkflowError(
                f"a link cannot be read: {str(link)[:100]}. It must state its id, a node and the "
                "number of its output, a node and the number of its input"
            )
        yield str(parts[0]), made


def _read_sent_links(raw: Any) -> tuple[UiLink, ...] | None:
    if not isinstance(raw, list):
        return None
    keys = ("upstream", "upstream_slot", "downstream", "downstream_slot")
    made = (_make_link(*map(_mapping(entry).get, keys)) for entry in raw)
    return tuple(link for link in made if link is not None)


def _make_link(origin: Any, origin_slot: Any, target: Any, target_slot: Any) -> UiLink | None:
    for slot in (origin_slot, target_slot):
        if not isinstance(slot, int) or slot < 0:
            return None
    return UiLink(str(origin), origin_slot, str(target), target_slot)


def _list(raw: Any) -> list[Any]:
    return raw if isinstance(raw, list) else []


def _mapping(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, Mapping) else {}
