"""The errors of this package. Each message says what was found, where, and what to do."""

import re
from collections.abc import Collection
from itertools import islice

MAX_MESSAGE = 1_000
"""Characters of an error."""

# Control characters but for tab and newline, those that reorder text, and lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def plain_text(text: str, limit: int | None = MAX_MESSAGE) -> str:
    """Return *text* with what a terminal would obey as escapes, and no longer than *limit*."""
    length = len(text)
    if limit is not None:
        text = text[: limit + 1]  # what is cut off need not be escaped
    text = _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)
    if limit is not None and len(text) > limit:
        end = f" … ({length:,} characters)"
        text = text[: limit - len(end)] + end
    return text


class SD2ClipError(Exception):
    """Base of every error that a user can cause or cure.

    Messages cite files and workflows of other people, so they are made plain and bounded here.
    """

    def __str__(self) -> str:
        return plain_text(super().__str__())


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


def fault(error: Exception) -> str:
    """Say in words what an exception found in a JSON document."""
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def how_to_install(package: str, extra: str) -> str:
    """Say how to install a missing package that *extra* of pyproject.toml lists.

    The extra is cited by folder: the package index need not have this project.
    """
    return f'Install it: pip install {package}, or pip install ".[{extra}]" in SD2 CLIP\'s folder.'


def and_more(items: Collection[str], limit: int = 5, separator: str = ", ") -> str:
    """The first *limit* of *items*, and how many more there are: "a, b and 3 more"."""
    shown = separator.join(islice(items, limit))
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise OptionError unless *value* is one of *choices*; *name* is the option's."""
    if value not in choices:
        raise OptionError(f"{name} {value!r} is unknown. Choose one of: {', '.join(choices)}.")
