"""Parses prompt syntax into weighted segments, without tokenizer and torch."""
