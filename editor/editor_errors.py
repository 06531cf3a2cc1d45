"""The errors of starting the editor."""


class EditorError(Exception):
    """The editor cannot start; the message says what is missing and what to do."""
