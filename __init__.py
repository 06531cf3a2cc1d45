"""SD2 CLIP: the text encoder of Stable Diffusion 2.x as ComfyUI nodes and as a library.

ComfyUI reads the three mappings. The functions are imported when they are first used, so that
ComfyUI's start does not pay for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .host import inside_comfyui
from .nodes import NODE_CLASSES
from .version import __version__

if TYPE_CHECKING:
    from .loading import load_checkpoint, load_clip
    from .sd2.detect import detect
    from .sd2.errors import SD2ClipError

NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODE_CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: node.TITLE for node in NODE_CLASSES}
WEB_DIRECTORY = "./js"

__all__ = [
    "NODE_CLASS_MAPPINGS",
    "NODE_DISPLAY_NAME_MAPPINGS",
    "WEB_DIRECTORY",
    "SD2ClipError",
    "__version__",
    "detect",
    "load_checkpoint",
    "load_clip",
]

if inside_comfyui():
    from .host.comfyui import register_routes
    from .routes import ROUTES

    register_routes(ROUTES)

_HOMES = {
    "SD2ClipError": ".sd2.errors",
    "detect": ".sd2.detect",
    "load_checkpoint": ".loading",
    "load_clip": ".loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __package__), name)
