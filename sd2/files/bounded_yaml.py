"""Parses YAML whose size, depth and aliases are within the limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UnreadableFileError
from .limits import MAX_YAML_BYTES, MAX_YAML_DEPTH, MAX_YAML_NODES
from .regular_file import check_regular_file

LONGEST_INTEGER = 100
"""Characters."""


def read_yaml(path: Path) -> Any:
    """Read the one document of a YAML file.

    Raises:
        UnreadableFileError: naming the file.
    """
    import yaml

    check_regular_file(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(data) > MAX_YAML_BYTES:
        raise UnreadableFileError(
            f"{path}: too large for a YAML file that we read: at most {MAX_YAML_BYTES:,} bytes."
        )
    try:
        _check_structure(data, path)
        return yaml.load(data, Loader=_make_loader())
    except UnreadableFileError:
        raise
    except Exception as error:
        # PyYAML lets through what Python raises for a date, number or tag that it cannot make.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFileError(f"{path}: not readable as YAML: {reason[:200]}.") from error


def _make_loader() -> Any:
    """PyYAML's safe loader, but for integers with more digits than Python turns into text."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_yaml_int(self, node: yaml.ScalarNode) -> Any:
            if len(node.value) > LONGEST_INTEGER:
                raise ValueError(f"an integer of {len(node.value):,} characters")
            return super().construct_yaml_int(node)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    return Loader


def _check_structure(data: bytes, path: Path) -> None:
    """Count nodes and levels before any is made; an alias counts as all that it stands for."""
    import yaml

    sizes: dict[str | None, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count where it began
    count = 0
    for event in yaml.parse(data, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.events.AliasEvent):
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.events.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.events.CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = MAX_YAML_NODES + 1  # it would contain itself
        elif isinstance(event, yaml.events.CollectionEndEvent):
            anchor, start = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - start
        if count > MAX_YAML_NODES:
            raise UnreadableFileError(
                f"{path}: too many values: its aliases stand for more than {MAX_YAML_NODES:,}, or "
                "it states as many itself."
            )
        if len(open_nodes) > MAX_YAML_DEPTH:
            raise UnreadableFileError(f"{path}: nested more than {MAX_YAML_DEPTH} levels deep.")
