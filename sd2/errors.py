"""The errors of this package. Each message says what was found, where, and what to do."""

from collections.abc import Collection
from itertools import islice


class SD2ClipError(Exception):
    """Base of every error that a user can cause or cure."""


class UnreadableFileError(SD2ClipError):
    """A file is missing, truncated, or not a model file."""


class UnsafeFileError(UnreadableFileError):
    """A pickle refers to code that model weights do not need. Nothing of it was run."""


class NotSD2Error(SD2ClipError):
    """A readable model file has no Stable Diffusion 2.x text encoder."""


class BrokenEncoderError(SD2ClipError):
    """A file has SD2's text encoder, but some of its tensors are missing, misshapen or empty."""


class LayerError(SD2ClipError, ValueError):
    """A layer name or number that this encoder does not have."""


class OptionError(SD2ClipError, ValueError):
    """An option has a value that cannot be honoured."""


class NotFiniteError(SD2ClipError):
    """An encoding holds NaN or infinity, which makes black pictures and spoils training."""


def and_more(items: Collection[str], limit: int = 5, separator: str = ", ") -> str:
    """The first *limit* of *items*, and how many more there are: "a, b and 3 more"."""
    shown = separator.join(islice(items, limit))
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise OptionError unless *value* is one of *choices*; *name* is the option's."""
    if value not in choices:
        raise OptionError(f"{name} {value!r} is unknown. Choose one of: {', '.join(choices)}.")
