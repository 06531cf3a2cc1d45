"""What the user drags onto the canvas."""

NODE_CLASSES: list[type] = []
