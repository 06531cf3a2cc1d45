"""Parses prompt syntax into weighted segments; needs no tokenizer and no torch."""
