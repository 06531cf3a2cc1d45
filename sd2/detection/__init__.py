"""Finds SD2's text encoder in a file and reads it."""
