"""The editor's saved workflow, of any age -> a prompt in API format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BrokenWorkflowError


def convert_ui_workflow(
    workflow: Mapping[str, Any], node_classes: Mapping[str, type]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The prompt, and notes on what was left out or guessed."""
    raise BrokenWorkflowError("the editor's format is not supported yet: export it for the API")
