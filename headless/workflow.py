"""Loads a workflow from any of its file formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..sd2.errors import SD2ClipError
from ..sd2.files.bounded_json import JsonError, check_json_size, parse_json
from ..sd2.files.regular_file import check_regular_file
from .editor_format.to_prompt import workflow_to_prompt
from .embedded import embedded_texts
from .graph import Graph, is_ui_workflow, parse_prompt, unwrap_prompt
from .node_class import NodeClasses
from .workflow_errors import WorkflowError
from .wrapped import unwrap_document


@dataclass(frozen=True)
class Workflow:
    """A prompt, with the node classes that it is validated and run with."""

    prompt: Mapping[str, Any]
    """The API format."""
    graph: Graph
    """The same, parsed."""
    classes: NodeClasses
    notes: tuple[str, ...] = ()
    """What the conversion to a prompt dropped or guessed, for a person to read."""
    ui_workflow: Mapping[str, Any] | None = None
    """The editor's format, if the file contains it: for
    ``extra_data={"extra_pnginfo": {"workflow": ...}}``."""

    @cached_property
    def titles(self) -> Mapping[str, str]:
        """The title of each node, for a person to read."""
        return {node.id: self.classes.title(node) for node in self.graph.values()}


def read_prompt(document: Any, node_classes: Mapping[str, type]) -> Workflow:
    """Read a prompt in API format, bare or as ``{"prompt": {...}, ...}``.

    Raises:
        WorkflowError: naming the node, if one cannot be read.
    """
    prompt = unwrap_prompt(document)
    return Workflow(prompt, parse_prompt(prompt), NodeClasses(node_classes))


def load_workflow(
    source: str | Path | Mapping[str, Any], node_classes: Mapping[str, type]
) -> Workflow:
    """Load a workflow from a document, or from a JSON, PNG or safetensors file.

    If a file contains both formats, its API prompt counts: that is exactly what ran. Nodes whose
    class is not in ``node_classes`` are no error here; validation names them.

    Raises:
        WorkflowError: naming the file.
    """
    if isinstance(source, Mapping):
        return _to_workflow(source, None, node_classes)
    path = Path(source)
    try:
        document, ui_workflow = _read(path)
        return _to_workflow(document, ui_workflow, node_classes)
    except SD2ClipError as error:
        if str(error).startswith(str(path)):
            raise
        raise WorkflowError(f"{path}: {error}") from error
    except OSError as error:
        raise WorkflowError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:  # a name with NUL or a lone surrogate in it
        raise WorkflowError(f"{str(path)!r} is not the name of a file: {error}") from error


def _read(path: Path) -> tuple[Any, Mapping[str, Any] | None]:
    """Read the document in a file, and the editor's workflow if the file also contains it."""
    check_regular_file(path)
    texts = embedded_texts(path)
    if texts is None:
        check_json_size(path.stat().st_size)
        try:
            return parse_json(path.read_bytes()), None
        except UnicodeDecodeError:
            raise WorkflowError("neither JSON, nor a PNG or safetensors file") from None
    documents = {key: _parse_embedded(text) for key, text in texts.items()}
    workflow = documents.get("workflow")
    if not is_ui_workflow(workflow):
        workflow = None
    prompt = documents.get("prompt") or workflow
    if prompt is None:
        raise WorkflowError("this file carries no workflow")
    return prompt, workflow


def _parse_embedded(text: str) -> Any:
    try:
        return parse_json(text)
    except JsonError:
        return None


def _to_workflow(
    document: Any, ui_workflow: Mapping[str, Any] | None, node_classes: Mapping[str, type]
) -> Workflow:
    classes = NodeClasses(node_classes)
    notes: tuple[str, ...] = ()
    document, beside = unwrap_document(document)
    ui_workflow = ui_workflow or beside
    if is_ui_workflow(document):
        ui_workflow = document
        prompt, notes = workflow_to_prompt(document, classes)
    else:
        prompt = dict(unwrap_prompt(document))
    return Workflow(prompt, parse_prompt(prompt), classes, notes, ui_workflow)
