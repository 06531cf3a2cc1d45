"""The interface to the program that runs us: ComfyUI, or a plain process."""

from __future__ import annotations

import sys

from .interface import Host

_host: Host | None = None


def inside_comfyui() -> bool:
    """Tell whether ComfyUI runs us. It imports its own modules before it loads nodes."""
    return "folder_paths" in sys.modules and "comfy" in sys.modules


def current() -> Host:
    """Return the host in use: ComfyUI if it is loaded, else a standalone host."""
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
    """Use *host* from now on."""
    global _host
    _host = host
