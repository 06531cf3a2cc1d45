"""Converts a workflow in the editor's format, of any version, to a prompt in API format.

This is what the editor does when it queues a prompt: notes, reroutes, primitives and muted nodes
are removed, bypassed nodes pass an input through, subgraphs are unfolded, the choices and comments
of dynamic prompts are resolved. The wiring of common node packs, which exists in the editor only,
is unfolded too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from ...sd2.errors import OptionError, plain_text
from ...sd2.files.limits import MAX_CONVERSION_STEPS, MAX_NODE_NAME, MAX_NOTES
from ...sd2.syntax.dynamic_prompt import resolve_choices
from ..graph import Link, Value
from ..node_class import NodeClasses
from ..workflow_errors import WorkflowError
from .document import (
    BYPASSED,
    INPUT_NODE,
    MUTED,
    SETTERS,
    UiDocument,
    UiInput,
    UiLink,
    UiNode,
    read_ui_document,
)
from .everywhere import SENDERS, add_sent_links
from .subgraphs import Scope, open_scopes
from .widgets import input_type, is_dynamic_prompt, values_without_class, widget_values

# Nodes that exist in the editor only.
NOTES = frozenset({"Note", "MarkdownNote"})
PRIMITIVE = "PrimitiveNode"
GETTERS = frozenset({"GetNode", "easy getNode"})
PASSING = frozenset({"Reroute", "Reroute (rgthree)"}) | SETTERS
"""Nodes that pass their input on."""
CONTROLS = frozenset(
    f"{name} (rgthree)"
    for name in (
        *("Bookmark", "Label", "Fast Muter", "Fast Bypasser", "Fast Groups Muter"),
        *("Fast Groups Bypasser", "Fast Actions Button", "Mute / Bypass Relay"),
        *("Mute / Bypass Repeater", "Node Collector", "Random Unmuter"),
    )
)
"""Nodes that label the canvas or switch other nodes; what they switched is saved in those."""
EDITOR_ONLY = NOTES | {PRIMITIVE} | GETTERS | PASSING | CONTROLS | SENDERS


def workflow_to_prompt(
    workflow: Mapping[str, Any], classes: NodeClasses
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the prompt, and notes on what was dropped or guessed.

    Nodes whose class is not installed are kept, with the inputs that can be identified; validation
    names them.

    Raises:
        WorkflowError: naming the node.
    """
    converter = _Converter(add_sent_links(read_ui_document(workflow)), classes)
    return converter.convert(), tuple(converter.notes)


@dataclass(frozen=True)
class _Pushed:
    """The value of a primitive, which the editor writes into the widgets linked to it, but not into
    widgets inside a subgraph."""

    value: Any
    label: str
    scope: Scope


class _Converter:
    def __init__(self, document: UiDocument, classes: NodeClasses) -> None:
        self.document = document
        self.classes = classes
        self.notes = [
            note for graph in (document.root, *document.subgraphs.values()) for note in graph.notes
        ]
        self.steps = 0
        self.random = Random()
        self.values: dict[UiNode, dict[str, Any]] = {}
        self.resolved: dict[tuple[Scope, str, int], Link | Value | _Pushed | None] = {}
        """What an output leads to, whatever type is wanted."""
        self.resolved_by_type: dict[tuple[Scope, str, int, str], Link | Value | _Pushed | None] = {}
        """The same where a bypassed node chooses an input by the type."""
        self.sockets: dict[UiNode, list[UiInput]] = {}
        self.passed: dict[tuple[UiNode, str, str], UiInput | None] = {}
        """The first input of a bypassed node that fits an output's type and the type wanted."""

    def _note(self, text: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(plain_text(text))

    def _count(self, steps: int) -> None:
        """Raise WorkflowError after more steps than any workflow takes."""
        self.steps += steps
        if self.steps > MAX_CONVERSION_STEPS:
            raise WorkflowError(
                f"to unfold its links and subgraphs takes more than {MAX_CONVERSION_STEPS:,} steps"
            )

    def convert(self) -> dict[str, Any]:
        prompt = {}
        for scope in open_scopes(self.document, self.classes):
            for node in scope.graph.nodes.values():
                if self._is_emitted(node):
                    prompt[scope.prefix + node.id] = self._emit(scope, node)
                elif node.type in CONTROLS and node.mode not in (MUTED, BYPASSED):
                    self._note(f"{node.label}: left out; it does nothing in a run")
        return prompt

    def _is_emitted(self, node: UiNode) -> bool:
        if node.mode in (MUTED, BYPASSED) or node.type in self.document.subgraphs:
            return False
        return node.type not in EDITOR_ONLY or node.type in self.classes

    def _emit(self, scope: Scope, node: UiNode) -> dict[str, Any]:
        values = self._values(node) | scope.inner_values.get(node.id, {})
        self._count(len(values) + len(node.inputs))
        stated: dict[str, Any] = {}
        for entry in node.inputs:
            source = self._resolve(scope, node, entry)
            if isinstance(source, Link):
                stated[entry.name] = [source.node_id, source.slot]
            elif isinstance(source, Value):
                stated[entry.name] = _wrap(source.value)
                self._note_unresolved(scope, node, entry.name, source.value)
            elif source is not None:
                values[entry.name] = source.value
        own = {
            name: _wrap(self._resolve_text(scope, node, name, value))
            for name, value in values.items()
            if name not in stated
        }
        inputs = {name: stated[name] if name in stated else own[name] for name in values} | stated
        title = node.title
        if title is None and node.type in self.classes:
            title = self.classes[node.type].title
        return {"inputs": inputs, "class_type": node.type, "_meta": {"title": title or node.type}}

    def _resolve_text(self, scope: Scope, node: UiNode, name: str, value: Any) -> Any:
        """Resolve the choices and comments of a text, if its widget is declared so."""
        if not self._is_dynamic_prompt(node, name) or not isinstance(value, str):
            return value
        self._count(len(value))
        try:
            resolved = resolve_choices(value, self.random)
        except OptionError as error:
            raise WorkflowError(f"{node.label}, input '{name}': {error}") from error
        if resolved != value:
            quoted = json.dumps(resolved, ensure_ascii=False)
            self._note(
                f"{_label(scope, node)}: '{name}' is {quoted} in this run, after its choices were "
                "drawn and its comments left out"
            )
        return resolved

    def _note_unresolved(self, scope: Scope, node: UiNode, name: str, value: Any) -> None:
        if self._is_dynamic_prompt(node, name) and isinstance(value, str):
            self._count(len(value))
            with suppress(OptionError):
                if resolve_choices(value, self.random) == value:
                    return
            self._note(
                f"{_label(scope, node)}: the choices and comments of '{name}' are kept, as the "
                "editor does for a widget of a subgraph"
            )

    def _is_dynamic_prompt(self, node: UiNode, name: str) -> bool:
        spec = self.classes[node.type].spec(name) if node.type in self.classes else None
        return spec is not None and is_dynamic_prompt(spec)

    def _values(self, node: UiNode) -> dict[str, Any]:
        if node not in self.values:
            self.values[node] = self._read_values(node)
        return self.values[node]

    def _read_values(self, node: UiNode) -> dict[str, Any]:
        if node.type in self.classes:
            values, surplus = widget_values(node, self.classes[node.type])
            if surplus > 0:
                self._note(
                    f"{node.label}: {surplus} saved widget values have no widget in this version "
                    "of the class; ignored"
                )
            return values
        group = node.type.removeprefix("workflow>").removeprefix("workflow/")
        if group != node.type and group in self.document.group_nodes:
            self._note(
                f"{node.label}: group nodes are not supported; open the workflow in the editor "
                "and convert it to a subgraph"
            )
        return values_without_class(node)

    # Where an input comes from

    def _resolve(self, scope: Scope, node: UiNode, entry: UiInput) -> Link | Value | _Pushed | None:
        """Find the node that feeds an input, or the value that another node stores for it or
        writes into its widget; None if there is none."""
        start = scope
        link = self._link(scope, node, entry)
        wanted = entry.type
        path: list[tuple[Scope, str, int, str]] = []
        seen = set()
        by_type = False
        found: Link | Value | _Pushed | None = None
        while link is not None:
            self._count(1)
            key = (scope, link.origin_id, link.origin_slot, wanted)
            if key[:3] in self.resolved:
                found = self.resolved[key[:3]]
                break
            if key in self.resolved_by_type:
                found, by_type = self.resolved_by_type[key], True
                break
            if key in seen:
                raise WorkflowError(
                    f"{node.label}, input '{entry.name}': its link goes round in a circle through "
                    f"node {scope.prefix}{link.origin_id}"
                )
            seen.add(key)
            path.append(key)
            step = self._step(scope, link, wanted)
            if not isinstance(step, tuple):
                found = step
                break
            scope, link, wanted = step
        for key in reversed(path):
            origin = key[0].graph.nodes.get(key[1])
            by_type = by_type or (origin is not None and origin.mode == BYPASSED)
            if by_type:
                self.resolved_by_type[key] = found
            else:
                self.resolved[key[:3]] = found
        if not isinstance(found, _Pushed):
            return found
        if found.scope is start:
            return found
        self._note(
            f"{_label(start, node)}: input '{entry.name}' keeps its own value; {found.label} does "
            "not reach into the subgraph, as in the editor"
        )
        return None

    def _step(
        self, scope: Scope, link: UiLink, wanted: str
    ) -> Link | Value | _Pushed | tuple[Scope, UiLink | None, str] | None:
        """Follow a link by one step: return its source, or the link before it."""
        if link.origin_id == INPUT_NODE and scope.parent is not None:
            return self._leave_subgraph(scope, link.origin_slot)
        node = scope.graph.nodes.get(link.origin_id)
        if node is None:
            self._note(
                f"a link comes from node {scope.prefix}{link.origin_id}, which does not exist; "
                "ignored"
            )
            return None
        if node.mode == MUTED and node.type != PRIMITIVE:
            return None
        if node.mode == BYPASSED and node.type != PRIMITIVE:
            entry = self._bypass(node, link.origin_slot, wanted)
            return None if entry is None else (scope, self._link(scope, node, entry), entry.type)
        if node.id in scope.children:
            child = scope.children[node.id]
            outputs = child.graph.output_links
            inner = outputs[link.origin_slot] if link.origin_slot < len(outputs) else None
            return (child, child.graph.links[inner], wanted) if inner is not None else None
        if self._is_emitted(node):
            return Link(scope.prefix + node.id, link.origin_slot)
        if node.type in PASSING and node.inputs:
            return scope, self._link(scope, node, node.inputs[0]), wanted
        if node.type in GETTERS:
            return self._read_name(scope, node, wanted)
        if node.type == PRIMITIVE:
            return _primitive_value(node, scope)
        return None

    def _read_name(
        self, scope: Scope, getter: UiNode, wanted: str
    ) -> tuple[Scope, UiLink | None, str] | None:
        """Find the source that a ``SetNode`` names, in this subgraph or else in one around it."""
        name = getter.source_name or ""
        around: Scope | None = scope
        while around is not None:
            self._count(1)
            setter = around.graph.setters.get(name)
            if setter is not None and setter.inputs:
                return around, self._link(around, setter, setter.inputs[0]), wanted
            around = around.parent
        self._note(f"{getter.label}: no node of this workflow sets the name {name!r}; ignored")
        return None

    def _leave_subgraph(
        self, scope: Scope, slot: int
    ) -> Value | tuple[Scope, UiLink | None, str] | None:
        assert scope.parent is not None
        assert scope.instance is not None
        if slot >= len(scope.graph.input_names):
            self._note(f"{scope.instance.label}: its subgraph has no input {slot}; ignored")
            return None
        name = scope.graph.input_names[slot]
        self._count(len(scope.instance.inputs))
        entry = scope.instance.input(name)
        if entry is not None:
            link = self._link(scope.parent, scope.instance, entry)
            if link is not None:
                return scope.parent, link, entry.type
        return self._host_value(scope, name)

    def _host_value(self, scope: Scope, name: str) -> Value | None:
        """Find the value of a promoted widget: the one that the instance stores, or else the
        inner widget's."""
        while name not in scope.host_values:
            self._count(1)
            if name not in scope.promoted:
                return None
            node_id, widget = scope.promoted[name]
            if widget in scope.inner_values.get(node_id, {}):
                return Value(scope.inner_values[node_id][widget])
            if node_id not in scope.children:
                values = self._values(scope.graph.nodes[node_id])
                return Value(values[widget]) if widget in values else None
            scope, name = scope.children[node_id], widget
        return Value(scope.host_values[name])

    def _link(self, scope: Scope, node: UiNode, entry: UiInput) -> UiLink | None:
        if entry.link is None:
            return None
        link = scope.graph.links.get(entry.link)
        if link is None:
            self._note(
                f"{node.label}: input '{entry.name}' names link {entry.link}, which does not "
                "exist; ignored"
            )
        return link

    def _bypass(self, node: UiNode, slot: int, wanted: str) -> UiInput | None:
        """Find the input that a bypassed node passes to an output: the one at the same position if
        its type fits, else the first of exactly that type, else the first that fits."""
        inputs = self.sockets.get(node)
        if inputs is None:
            inputs = self.sockets[node] = self._sockets(node)
            self._count(len(inputs))
        if wanted in ("*", ""):
            return inputs[slot] if slot < len(inputs) else next(iter(inputs), None)
        given = node.output_types[slot] if slot < len(node.output_types) else "*"

        def fits(entry: UiInput) -> bool:
            return _connects(entry.type, given) and _connects(entry.type, wanted)

        if slot < len(inputs) and fits(inputs[slot]):
            return inputs[slot]
        key = node, given, wanted
        if key not in self.passed:
            self._count(len(inputs))
            exact = (entry for entry in inputs if entry.type == wanted)
            self.passed[key] = next(exact, None) or next(filter(fits, inputs), None)
        return self.passed[key]

    def _sockets(self, node: UiNode) -> list[UiInput]:
        """Return the inputs in the order of the class; a file may omit inputs without a link."""
        if node.type not in self.classes:
            return list(node.inputs)
        specs = self.classes[node.type].inputs
        saved = {entry.name: entry for entry in node.inputs}
        sockets = [
            UiInput(
                spec.name,
                input_type(spec),
                saved[spec.name].link if spec.name in saved else None,
            )
            for spec in specs
            if not spec.options.get("socketless")
        ]
        names = {spec.name for spec in specs}
        return sockets + [entry for entry in node.inputs if entry.name not in names]


def _label(scope: Scope, node: UiNode) -> str:
    return f"node {scope.prefix}{node.id} ({(node.title or node.type)[:MAX_NODE_NAME]})"


def _primitive_value(node: UiNode, scope: Scope) -> _Pushed | None:
    named = node.named_values or {}
    if "value" in named:
        return _Pushed(named["value"], node.label, scope)
    if isinstance(node.values, list) and node.values:
        return _Pushed(node.values[0], node.label, scope)
    return None


def _connects(one: str, other: str) -> bool:
    """Whether the editor allows a link between these types."""
    if one in ("*", "") or other in ("*", ""):
        return True
    ours = {part.strip() for part in one.lower().split(",")}
    return not ours.isdisjoint(part.strip() for part in other.lower().split(","))


def _wrap(value: Any) -> Any:
    """Wrap a list: in a prompt, a bare list is a link."""
    return {"__value__": value} if isinstance(value, list) else value
