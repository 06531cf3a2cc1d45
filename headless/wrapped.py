"""Unwraps the documents that a prompt or workflow is handed around in.

A prompt in API format may stand alone, as ``{"prompt": ...}``, as JSON within a JSON string, or in
what ComfyUI answers under ``/history``: ``{prompt id: entry}``, or an entry itself, whose
``prompt`` is the list ``[number, id, prompt, extra data, outputs]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..sd2.errors import and_more
from ..sd2.files.bounded_json import JsonError, parse_json
from .graph import is_ui_workflow
from .workflow_errors import WorkflowError


def unwrap_document(document: Any) -> tuple[Any, Mapping[str, Any] | None]:
    """Return the prompt or workflow, and the editor's workflow if the document contains both.

    What wraps nothing known is returned as it is.

    Raises:
        WorkflowError: if the document contains several prompts, or none.
    """
    document = _parse_text(document)
    if is_ui_workflow(document) or not isinstance(document, Mapping):
        return document, None
    if "queue_running" in document or "queue_pending" in document:
        raise WorkflowError(
            "this is ComfyUI's queue (/queue), not a workflow. Save one prompt of it by itself"
        )
    if _is_history(document):
        if len(document) > 1:
            raise WorkflowError(
                f"this is ComfyUI's history of {len(document)} runs: {and_more(list(document))}. "
                "Keep one of them in the file"
            )
        (document,) = document.values()
    prompt = _parse_text(document.get("prompt"))
    if isinstance(prompt, list):
        return _unwrap_entry(prompt)
    workflow = _parse_text(document.get("workflow"))
    if not is_ui_workflow(workflow):
        workflow = None
    if isinstance(prompt, Mapping) and "class_type" not in prompt:
        return (prompt, workflow) if not is_ui_workflow(prompt) else (prompt, None)
    if workflow is not None and "class_type" not in document:
        return workflow, None
    return document, None


def _is_history(document: Mapping[str, Any]) -> bool:
    """Whether every value is an entry of ComfyUI's history."""
    return bool(document) and all(
        isinstance(entry, Mapping) and isinstance(entry.get("prompt"), list)
        for entry in document.values()
    )


def _unwrap_entry(entry: list[Any]) -> tuple[Any, Mapping[str, Any] | None]:
    if len(entry) < 3 or not isinstance(entry[2], Mapping):
        raise WorkflowError(
            "this is an entry of ComfyUI's history without its prompt: expected "
            "[number, id, prompt, ...] under 'prompt'"
        )
    workflow: Any = entry[3] if len(entry) > 3 else None
    for key in ("extra_pnginfo", "workflow"):
        workflow = workflow.get(key) if isinstance(workflow, Mapping) else None
    return entry[2], workflow if is_ui_workflow(workflow) else None


def _parse_text(document: Any) -> Any:
    """Parse JSON within a JSON string; return anything else as it is."""
    if not isinstance(document, str):
        return document
    try:
        return parse_json(document)
    except JsonError:
        return document
