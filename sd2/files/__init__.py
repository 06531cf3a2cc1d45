"""Bytes on disk to tensors and back; knows nothing of CLIP."""
