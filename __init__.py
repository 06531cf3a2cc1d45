"""SD2 CLIP: the text encoder of Stable Diffusion 2.x as ComfyUI nodes and as a library.

ComfyUI reads the three mappings. Functions and classes are imported when they are first used, so
that ComfyUI's start does not pay for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import sd2
from .host import inside_comfyui
from .nodes import NODE_CLASSES
from .version import __version__

if TYPE_CHECKING:
    from .clip.load_clip import load_checkpoint, load_clip
    from .clip.prompt_embeds import prompt_embeds
    from .sd2 import (
        SD1ClipModel,
        SD1Tokenizer,
        SD2ClipHModel,
        SD2ClipHTokenizer,
        SD2ClipModel,
        SD2Tokenizer,
        SDClipModel,
        SDTokenizer,
    )
    from .sd2.detection.detect import detect
    from .sd2.errors import SD2ClipError

NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODE_CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: node.TITLE for node in NODE_CLASSES}
WEB_DIRECTORY = "./js"

__all__ = [
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
    "WEB_DIRECTORY",
    "SD1ClipModel",
    "SD1Tokenizer",
    "SD2ClipError",
    "SD2ClipHModel",
    "SD2ClipHTokenizer",
    "SD2ClipModel",
    "SD2Tokenizer",
    "SDClipModel",
    "SDTokenizer",
    "__version__",
    "detect",
    "load_checkpoint",
    "load_clip",
    "prompt_embeds",
]

if inside_comfyui():
    from .host.comfyui import register_routes
    from .nodes.panel_routes import ROUTES

    register_routes(ROUTES)

_HOMES = {
    "SD2ClipError": ".sd2.errors",
    "detect": ".sd2.detection.detect",
    "load_checkpoint": ".clip.load_clip",
    "load_clip": ".clip.load_clip",
    "prompt_embeds": ".clip.prompt_embeds",
}


def __getattr__(name: str) -> Any:
    if name in sd2.__all__:
        return getattr(sd2, name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __package__), name)
