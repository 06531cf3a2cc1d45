"""Reads LoRA files and computes what they change in a text encoder."""
