"""The command line ``sd2-clip``.

Each command is a module of its own, imported only when it runs, so that ``--help`` and ``inspect``
start without torch.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from ..version import __version__

COMMANDS = {
    "run": "run a workflow (editor or API format) without ComfyUI",
    "inspect": "describe a model file; reads little more than its header",
    "convert": "write the text encoder of a file for another program: ComfyUI, diffusers, OpenCLIP",
    "verify": "compare a file with the published values of SD2's own text encoder",
    "encode": "encode a data set of captions to embeddings, for training",
    "prompt": "encode a prompt to a file for another program",
    "export": "write encoded captions in another format, for a trainer",
    "compare": "show how far apart two encodings are, token by token",
    "edit": "open the workflow editor in the browser, without ComfyUI",
    "demo": "encode a first prompt; uses random weights if no checkpoint is given",
}


def _module(command: str) -> ModuleType:
    return import_module(f".{command}_command", __package__)


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """Build the parser of all commands; imports only the module of the *chosen* one."""
    parser = argparse.ArgumentParser(
        prog="sd2-clip",
        description="Stable Diffusion 2.x text encoder: load it from any file, encode any prompt.",
    )
    parser.add_argument("--version", action="version", version=f"sd2-clip {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if name == chosen:
            _module(name).add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show tracebacks and details")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0 if it did everything, 2 for a wrong command line, else 1.

    ``verify`` also returns 3.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the console cannot print must not end the run; stderr escapes them too.
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser(words[0] if words else None)
    if not words:
        parser.print_help(sys.stderr)
        return 2
    parsed = parser.parse_args(words)
    logging.basicConfig(
        stream=sys.stderr,
        format="%(levelname)s: %(message)s",
        level=logging.DEBUG if parsed.debug else logging.WARNING,
    )
    from ..sd2.errors import SD2ClipError, plain_text

    try:
        status: int = _module(parsed.command).run(parsed)
    except BrokenPipeError:  # the process that reads our output has ended
        return 1
    except (SD2ClipError, OSError) as error:
        if parsed.debug:
            raise
        print(f"sd2-clip {parsed.command}: {plain_text(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"sd2-clip {parsed.command}: stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if parsed.debug:
            raise
        print(
            f"sd2-clip {parsed.command}: unexpected {type(error).__name__}: "
            f"{plain_text(str(error))}\n"
            "This is a bug in sd2-clip. Run again with --debug and report the traceback.",
            file=sys.stderr,
        )
        return 1
    return status
