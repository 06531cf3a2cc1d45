"""The prompt of one run, and the nodes that nodes add to it while it runs (``expand``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..graph import Graph, Link, Node, parse_prompt
from ..node_class import NodeClasses
from ..workflow_errors import NodeContractError


class DynamicPrompt:
    """What the hidden input DYNPROMPT hands to a node; the method names are ComfyUI's."""

    def __init__(self, prompt: Mapping[str, Any], graph: Graph) -> None:
        self._prompt = prompt
        self._added: dict[str, Any] = {}
        self._parent: dict[str, str] = {}
        self._real: dict[str, str] = {}
        self._display: dict[str, str] = {}
        self.graph: dict[str, Node] = dict(graph)
        """The nodes to run, those added included; for the executor."""

    def get_original_prompt(self) -> Mapping[str, Any]:
        return self._prompt

    def has_node(self, node_id: str) -> bool:
        return node_id in self._added or node_id in self._prompt

    def get_node(self, node_id: str) -> Any:
        """The node in API format."""
        if node_id in self._added:
            return self._added[node_id]
        if node_id in self._prompt:
            return self._prompt[node_id]
        raise NodeContractError(f"node {node_id} is not in the workflow")

    def all_node_ids(self) -> set[str]:
        return {*self._prompt, *self._added}

    def get_parent_node_id(self, node_id: str) -> str | None:
        """The node whose expansion this is part of."""
        return self._parent.get(node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """The node of the workflow from which this one came, over any number of expansions."""
        return self._real.get(node_id, node_id)

    def get_display_node_id(self, node_id: str) -> str:
        """The node that stands for this one on the canvas."""
        return self._display.get(node_id, node_id)

    def lineage(self, node_id: str) -> dict[str, str | None]:
        return {
            "display_node_id": self.get_display_node_id(node_id),
            "parent_node_id": self.get_parent_node_id(node_id),
            "real_node_id": self.get_real_node_id(node_id),
        }

    def expand(self, parent: str, expansion: Any, classes: NodeClasses) -> list[str]:
        """Add the nodes of an expansion and return the ids of the output nodes among them.

        Raises:
            WorkflowError: an id that exists, a class that does not, a link to nowhere.
        """
        added = parse_prompt(expansion)
        for node in added.values():
            if node.id in self.graph or node.id in self._prompt:
                raise NodeContractError(
                    f"its expansion adds node {node.id}, and there is one already; ids of added "
                    "nodes must be new, for instance by prefixing the node's own unique id"
                )
            if node.class_type not in classes:
                raise NodeContractError(
                    f"its expansion adds node {node.id} of class {node.class_type!r}, which is "
                    "not installed"
                )
        outputs = []
        for node in added.values():
            cls = classes[node.class_type or ""]
            node, _ = cls.strip(node)
            for name, received in node.inputs.items():
                if isinstance(received, Link) and not (
                    received.node_id in added or received.node_id in self.graph
                ):
                    raise NodeContractError(
                        f"its expansion adds node {node.id} ({cls.name}) whose input '{name}' "
                        f"comes from node {received.node_id}, which does not exist"
                    )
            shown = expansion[node.id].get("override_display_id", parent)
            self.graph[node.id] = node
            self._added[node.id] = expansion[node.id]
            self._parent[node.id] = parent
            self._real[node.id] = self.get_real_node_id(parent)
            self._display[node.id] = self.get_display_node_id(shown)
            if cls.is_output:
                outputs.append(node.id)
        return outputs
