"""The error of starting the editor."""

from ..sd2.errors import SD2ClipError


class EditorError(SD2ClipError):
    """The editor cannot start; the message says what is missing and what to do."""
