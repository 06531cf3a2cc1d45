"""Caches results by content: a node's digest covers its class, inputs and all their sources.

Each digest is computed from the digests of the node's sources (a Merkle tree), in linear time for
the whole prompt. It does not contain ids, so results are found again after renumbering. Files
enter through ``IS_CHANGED`` of the nodes that read them.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..graph import Graph, Link, Node, Value
from ..node_class import NodeClass, NodeClasses

log = logging.getLogger("sd2_clip")


@dataclass(frozen=True, slots=True)
class Result:
    """What a node returned: a list per output, and what it shows (``ui``)."""

    outputs: tuple[list[Any], ...]
    ui: dict[str, list[Any]] | None = None


class ResultCache:
    """The results of the last prompt only: one per node."""

    def __init__(self) -> None:
        self._results: dict[bytes, Result] = {}
        self._last: dict[str, bytes] = {}

    def begin(self, nodes: Collection[str], digests: Mapping[str, bytes | None]) -> None:
        """Drop the results that the new prompt does not use, before it needs the memory.

        Nodes of the prompt that do not take part in this run (no digest) keep their result.
        """
        last = {node: digest for node, digest in self._last.items() if node in nodes}
        for node, digest in digests.items():
            last.pop(node, None)
            if digest is not None and digest in self._results:
                last[node] = digest
        self._last = last
        self._results = {digest: self._results[digest] for digest in last.values()}

    def get(self, digest: bytes | None) -> Result | None:
        return None if digest is None else self._results.get(digest)

    def put(self, node: str, digest: bytes | None, result: Result) -> None:
        if digest is not None:
            self._last[node] = digest
            self._results[digest] = result

    def clear(self) -> None:
        self._results.clear()
        self._last.clear()


class NotCacheableError(Exception):
    """A value cannot be compared: nan, which equals nothing, or an object."""


def digest_nodes(
    graph: Graph,
    classes: NodeClasses,
    hidden: Callable[[Node], Mapping[str, Any]],
) -> dict[str, bytes | None]:
    """Compute a digest per node; None if it must run every time, with all that depend on it.

    In ``graph``, each node comes after its sources. ``IS_CHANGED`` is called here, with the
    constants of the node; if it fails, that is logged and the node runs every time.
    """
    digests: dict[str, bytes | None] = {}
    for node in graph.values():
        try:
            digests[node.id] = _digest(node, classes[node.class_type or ""], digests, hidden)
        except NotCacheableError:
            digests[node.id] = None
    return digests


def _digest(
    node: Node,
    cls: NodeClass,
    digests: Mapping[str, bytes | None],
    hidden: Callable[[Node], Mapping[str, Any]],
) -> bytes:
    parts = [_text(cls.name)]
    if cls.depends_on_its_id:
        parts.append(_text(node.id))
    for name in sorted(node.inputs):
        received = node.inputs[name]
        parts.append(_text(name))
        if isinstance(received, Link):
            source = digests.get(received.node_id)
            if source is None:
                raise NotCacheableError
            parts.append(b"@%d:" % received.slot + source)
        elif isinstance(received, Value):
            _encode(received.value, parts)
    if hasattr(cls.cls, "IS_CHANGED"):
        _encode(_is_changed(node, cls, hidden(node)), parts)
    return hashlib.blake2b(b"".join(parts), digest_size=20).digest()


def _is_changed(node: Node, cls: NodeClass, hidden: Mapping[str, Any]) -> list[Any]:
    arguments = cls.constant_arguments(node, hidden)
    try:
        return cls.call(cls.cls.IS_CHANGED, arguments)
    except Exception as error:
        log.warning(
            "node %s (%s): IS_CHANGED failed, so the node runs every time: %s: %s",
            node.id,
            node.title or cls.title,
            type(error).__name__,
            error,
        )
        raise NotCacheableError from error


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"s%d:" % len(data) + data


def _encode(value: Any, parts: list[bytes]) -> None:
    """Append an encoding of ``value`` that no other value has; 1, 1.0 and True differ too."""
    kind = type(value)
    if kind is str:
        parts.append(_text(value))
    elif kind is bool or value is None:
        parts.append(b"%a;" % value)
    elif kind is int:
        parts.append(b"i%d;" % value)
    elif kind is float:
        if value != value:
            raise NotCacheableError
        parts.append(b"f" + struct.pack("<d", value))
    elif kind is bytes:
        parts.append(b"b%d:" % len(value) + value)
    elif kind is list or kind is tuple:
        parts.append(b"l%d:" % len(value))
        for item in value:
            _encode(item, parts)
    elif kind is dict:
        parts.append(b"d%d:" % len(value))
        for key in sorted(value, key=repr):
            _encode(key, parts)
            _encode(value[key], parts)
    else:
        raise NotCacheableError
