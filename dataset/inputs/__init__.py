"""Reads captions from the files that people have."""
