"""A workflow in whatever form a person has it -> a prompt in API format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .editor_format.to_prompt import convert_ui_workflow
from .embedded import embedded_texts
from .graph import is_ui_workflow, parse_prompt, unwrap_prompt
from .node_class import NodeClasses
from .workflow_errors import NotAWorkflowError, WorkflowError


@dataclass(frozen=True)
class LoadedWorkflow:
    """A workflow ready to be validated."""

    prompt: dict[str, Any]
    """The API format."""
    titles: dict[str, str]
    """What a person calls each node of the prompt."""
    notes: tuple[str, ...]
    """What was left out or guessed on the way, for a person to read."""
    ui_workflow: dict[str, Any] | None
    """The editor's format, if the workflow came with it: what to hand on as
    ``extra_data={"extra_pnginfo": {"workflow": ...}}``."""


def load_workflow(
    source: str | Path | Mapping[str, Any], node_classes: Mapping[str, type]
) -> LoadedWorkflow:
    """Read a workflow from a document, or from a JSON, PNG or safetensors file.

    A file that carries both formats is taken by its API prompt, which says exactly what ran. Node
    classes that are not in ``node_classes`` are no error here; validation names them.

    Raises:
        WorkflowError: naming the file.
    """
    if isinstance(source, Mapping):
        return _understand(source, None, node_classes)
    path = Path(source)
    try:
        document, ui_workflow = _read(path)
        return _understand(document, ui_workflow, node_classes)
    except WorkflowError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise NotAWorkflowError(f"{path}: {error.strerror or error}") from error


def _read(path: Path) -> tuple[Any, dict[str, Any] | None]:
    """The document in a file, and the editor's workflow if that is beside it."""
    texts = embedded_texts(path)
    if texts is None:
        data = path.read_bytes()
        try:
            return json.loads(data.decode("utf-8-sig")), None
        except UnicodeDecodeError:
            raise NotAWorkflowError("neither JSON, nor a PNG or safetensors file") from None
        except ValueError as error:  # also a number of more digits than Python reads
            raise NotAWorkflowError(f"not JSON: {error}") from None
        except RecursionError:
            raise NotAWorkflowError("not a workflow: nested too deeply") from None
    documents = {key: _parse_embedded(text) for key, text in texts.items()}
    workflow = documents.get("workflow")
    if not is_ui_workflow(workflow):
        workflow = None
    prompt = documents.get("prompt") or workflow
    if prompt is None:
        raise NotAWorkflowError("this file carries no workflow")
    return prompt, workflow


def _parse_embedded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _understand(
    document: Any, ui_workflow: dict[str, Any] | None, node_classes: Mapping[str, type]
) -> LoadedWorkflow:
    notes: tuple[str, ...] = ()
    if is_ui_workflow(document):
        ui_workflow = dict(document)
        prompt, notes = convert_ui_workflow(document, node_classes)
    else:
        prompt = dict(unwrap_prompt(document))
    classes = NodeClasses(node_classes)
    titles = {node.id: classes.title(node) for node in parse_prompt(prompt).values()}
    return LoadedWorkflow(prompt, titles, notes, ui_workflow)
