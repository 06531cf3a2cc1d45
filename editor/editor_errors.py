"""The errors of the editor."""

from ..sd2.errors import SD2ClipError


class EditorError(SD2ClipError):
    """The editor cannot start; the message says what is missing and what to do."""


class StorageError(SD2ClipError):
    """A file of the user cannot be read or written; the message says what stands in its place."""
