"""The errors of reading and running workflows. Each names the file, or the node and the input."""


class WorkflowError(Exception):
    """Base of every error that a workflow, its nodes or its values can cause."""


class NotAWorkflowError(WorkflowError):
    """A file or a document is readable, but holds no workflow in either format."""


class BrokenWorkflowError(WorkflowError):
    """A workflow is recognised as one, but a part of it has no possible meaning."""


class OverrideError(WorkflowError):
    """A ``NODE.INPUT=VALUE`` override names no node, several nodes, or no input of its node."""


class NodeContractError(WorkflowError):
    """A node class breaks the contract of node classes, for instance by returning no tuple."""


class Interrupted(BaseException):
    """Raised inside a node, at its next progress report, when the user stops the run.

    Not an ``Exception``, so that a node which recovers from errors does not recover from this.
    """
