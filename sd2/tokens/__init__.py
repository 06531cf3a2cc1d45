"""Turns weighted segments into chunks of 77 tokens."""
