"""Reads and writes files of tensors; knows nothing of CLIP."""
