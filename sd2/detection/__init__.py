"""Decides whose text encoder a state dict holds, and under which keys."""
