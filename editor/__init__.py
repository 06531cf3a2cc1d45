"""Serves the ComfyUI frontend and its HTTP and WebSocket API over our own executor.

Needs the extra ``[editor]``. Node classes, routes and folders are handed in by the caller.
"""
