"""The Stable Diffusion 2.x text encoder and its text; knows no host, no graph and no UI.

The classes bear ComfyUI's names. They are imported when first used: torch takes a second.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.sd_clip import SD1ClipModel, SDClipModel
    from .sd2_clip import SD2ClipHModel, SD2ClipModel
    from .sd2_tokenizer import SD2ClipHTokenizer, SD2Tokenizer
    from .tokens.sd_tokenizer import SD1Tokenizer, SDTokenizer

__all__ = [
    "SD1ClipModel",
    "SD1Tokenizer",
    "SD2ClipHModel",
    "SD2ClipHTokenizer",
    "SD2ClipModel",
    "SD2Tokenizer",
    "SDClipModel",
    "SDTokenizer",
]

_MODULES = {
    "SD1ClipModel": ".model.sd_clip",
    "SD1Tokenizer": ".tokens.sd_tokenizer",
    "SD2ClipHModel": ".sd2_clip",
    "SD2ClipHTokenizer": ".sd2_tokenizer",
    "SD2ClipModel": ".sd2_clip",
    "SD2Tokenizer": ".sd2_tokenizer",
    "SDClipModel": ".model.sd_clip",
    "SDTokenizer": ".tokens.sd_tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __package__), name)
