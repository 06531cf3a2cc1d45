"""Reads LoRA files and computes the changed weights of a text encoder."""
