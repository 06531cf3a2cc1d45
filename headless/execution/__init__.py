"""Runs a validated prompt with ComfyUI's semantics."""
