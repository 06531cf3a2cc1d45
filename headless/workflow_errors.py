"""The errors of reading and running workflows. Each names the file, or the node and the input."""

from __future__ import annotations

from ..sd2.errors import SD2ClipError


class WorkflowError(SD2ClipError):
    """A workflow cannot be read, changed or run as asked."""


class NodeContractError(WorkflowError):
    """A node class breaks the contract of node classes, for instance by returning no tuple."""


class Interrupted(BaseException):
    """Raised inside a node, at its next progress report, when the user stops the run.

    Not an ``Exception``, so that a node that handles its own errors does not handle this.
    """
