"""``sd2-clip compare A B``: how far apart two encodings are, token by token."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sd2.errors import OptionError
from .path_argument import path_argument

if TYPE_CHECKING:
    from ..clip.encode_text import EncodedText

DTYPES = ("auto", "fp32", "fp16", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # No torch: the options are declarations.
    from ..clip.encode_options import ENCODE_OPTIONS, EncodeOptions
    from .encode_arguments import (
        add_embeddings_argument,
        add_lora_argument,
        flag_of,
        help_of,
    )

    parser.add_argument("a", metavar="A", help="a prompt; with --text, a model file or folder")
    parser.add_argument("b", metavar="B", help="what to compare it with: another, or the same")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=path_argument,
        help="a file or folder with SD2's text encoder: A and B are prompts",
    )
    what.add_argument("--text", metavar="TEXT", help="a prompt: A and B are files or folders")
    parser.add_argument(
        "--plot",
        metavar="FILE.png",
        type=path_argument,
        help="draw the distances too (needs matplotlib)",
    )
    options = parser.add_argument_group(
        "encoding", "One value, or A's and B's with a comma between them: comfy,A1111."
    )
    for name in ENCODE_OPTIONS:
        default = str(getattr(EncodeOptions, name))
        options.add_argument(flag_of(name), metavar="VALUE", default=default, help=help_of(name))
    options.add_argument(
        "--dtype",
        metavar="VALUE",
        default="auto",
        help=f"dtype of the weights: {', '.join(DTYPES)} (default: auto)",
    )
    add_embeddings_argument(parser)
    add_lora_argument(parser)
    options.add_argument("--device", default="auto", help="auto, cpu or gpu:N (default: auto)")


def run(arguments: argparse.Namespace) -> int:
    from ..clip.compare import compare
    from ..sd2.files.atomic_write import check_writable

    plot: Path | None = arguments.plot
    if plot is not None:
        from .compare_plot import check_plot, write_plot

        check_plot(plot)
        check_writable(plot.parent)
    a, b = _encoded(arguments)
    comparison = compare(a, b)
    print(comparison.table())
    if plot is not None:
        write_plot(comparison, plot)
        print(f"wrote {plot}", file=sys.stderr)
    return 0


def _encoded(arguments: argparse.Namespace) -> tuple[EncodedText, EncodedText]:
    """Encode A and B; a file that both have is loaded once."""
    from ..clip.encode_options import ENCODE_OPTIONS
    from ..clip.encode_text import encode_text
    from ..clip.load_clip import load_clip
    from .encode_arguments import with_loras

    names = [arguments.a, arguments.b]
    files, texts = [arguments.checkpoint] * 2, names
    if arguments.text is not None:
        files, texts = list(map(path_argument, names)), [arguments.text] * 2
    dtypes = _both("dtype", arguments.dtype)
    values = {name: _both(name, getattr(arguments, name)) for name in ENCODE_OPTIONS}
    loads = list(zip(files, dtypes, strict=True))
    clips = {
        (file, dtype): with_loras(
            load_clip(
                file,
                embedding_directory=arguments.embeddings,
                device=arguments.device,
                dtype=None if dtype == "auto" else dtype,
            ),
            arguments,
        )
        for file, dtype in dict.fromkeys(loads)
    }
    a, b = (
        encode_text(
            clips[loads[side]],
            texts[side],
            **{name: _value(name, both[side]) for name, both in values.items()},
        )
        for side in (0, 1)
    )
    return a, b


def _both(name: str, text: str) -> tuple[str, str]:
    """Return the value for A and the one for B."""
    from .encode_arguments import flag_of

    values = [part.strip() for part in text.split(",")]
    if len(values) > 2:
        raise OptionError(
            f"{flag_of(name)} has {len(values)} values; it takes one, or A's and B's."
        )
    return values[0], values[-1]


def _value(name: str, text: str) -> Any:
    """Return an option's value in its type; a wrong one is refused by ``EncodeOptions``."""
    from ..clip.encode_options import ENCODE_OPTIONS, Range

    if not isinstance(ENCODE_OPTIONS[name], Range):
        return text
    try:
        return int(text)
    except ValueError:
        return text
