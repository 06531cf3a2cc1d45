"""Builds the editor's saved workflows for tests: nodes, links, subgraphs."""

from __future__ import annotations

from typing import Any


class Canvas:
    """A workflow, or the inside of a subgraph. Nodes are named by their ids."""

    def __init__(self) -> None:
        self.nodes: dict[Any, dict[str, Any]] = {}
        self.links: list[list[Any]] = []
        self.subgraphs: list[dict[str, Any]] = []

    def add(
        self,
        id: Any,
        type: str,
        values: Any = None,
        *,
        inputs: str = "",
        outputs: str = "",
        **extra: Any,
    ) -> None:
        """``inputs`` and ``outputs`` are ``"name:TYPE other:TYPE"``; ``!`` marks a widget."""
        node: dict[str, Any] = {"id": id, "type": type, "mode": 0, "pos": [0, 0], **extra}
        node["inputs"] = []
        for text in inputs.split():
            name, _, kind = text.partition(":")
            entry: dict[str, Any] = {"name": name.rstrip("!"), "type": kind or "*", "link": None}
            if name.endswith("!"):
                entry["widget"] = {"name": entry["name"]}
            node["inputs"].append(entry)
        node["outputs"] = [
            {"name": text.partition(":")[0], "type": text.partition(":")[2] or "*", "links": []}
            for text in outputs.split()
        ]
        if values is not None:
            node["widgets_values"] = values
        self.nodes[id] = node

    def link(self, source: Any, slot: int, target: Any, name: str) -> None:
        """From an output to the input called ``name``; -10 and -20 are the inside ends."""
        number = len(self.links) + 1
        target_slot = 0
        if target == -20:
            target_slot = int(name)
        else:
            entries = self.nodes[target]["inputs"]
            target_slot = next(i for i, entry in enumerate(entries) if entry["name"] == name)
            entries[target_slot]["link"] = number
        kind = "*"
        if source != -10:
            output = self.nodes[source]["outputs"][slot]
            output["links"].append(number)
            kind = output["type"]
        self.links.append([number, source, slot, target, target_slot, kind])

    def define(self, id: str, inside: Canvas, *, inputs: str = "", outputs: str = "") -> None:
        """Add the definition of a subgraph whose inside is another canvas."""
        self.subgraphs.append(
            {
                "id": id,
                "name": f"Subgraph {id}",
                "nodes": list(inside.nodes.values()),
                "links": [as_object(link) for link in inside.links],
                "inputs": _slots(inputs),
                "outputs": _slots(outputs),
                "inputNode": {"id": -10},
                "outputNode": {"id": -20},
                "definitions": {"subgraphs": inside.subgraphs},
            }
        )

    def document(self, version: float = 0.4) -> dict[str, Any]:
        links: list[Any] = list(self.links)
        if version == 1:
            links = [as_object(link) for link in links]
        return {
            "version": version,
            "nodes": list(self.nodes.values()),
            "links": links,
            "groups": [{"title": "Group", "bounding": [0, 0, 9, 9]}],
            "config": {},
            "extra": {"ds": {"scale": 1}},
            "definitions": {"subgraphs": self.subgraphs},
        }


def as_object(link: list[Any]) -> dict[str, Any]:
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return dict(zip(keys, link, strict=True))


def _slots(text: str) -> list[dict[str, Any]]:
    parts = [part.partition(":") for part in text.split()]
    return [{"id": name, "name": name, "type": kind or "*"} for name, _, kind in parts]
