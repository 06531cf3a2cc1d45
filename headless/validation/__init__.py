"""Checks a prompt as ComfyUI does before anything runs."""
