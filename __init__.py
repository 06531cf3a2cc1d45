"""SD2 CLIP: the Stable Diffusion 2.x text encoder as ComfyUI nodes and as a library."""

from .nodes import NODE_CLASSES

NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODE_CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: node.TITLE for node in NODE_CLASSES}
WEB_DIRECTORY = "./js"

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
