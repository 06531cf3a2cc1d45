"""The one seam to whatever runs us."""

from __future__ import annotations

import sys

from .interface import Host

_host: Host | None = None


def inside_comfyui() -> bool:
    """Whether ComfyUI runs us. It has loaded its own modules long before it loads nodes."""
    return "folder_paths" in sys.modules and "comfy" in sys.modules


def current() -> Host:
    """The host that runs us: ComfyUI where it is loaded, else a standalone one."""
    global _host
    if _host is None:
        if inside_comfyui():
            from .comfyui import ComfyUIHost

            _host = ComfyUIHost()
        else:
            from .standalone import StandaloneHost

            _host = StandaloneHost()
    return _host


def use(host: Host) -> None:
    """Run under *host* from now on."""
    global _host
    _host = host
