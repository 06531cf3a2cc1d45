"""What one does with a CLIP handle: load it, encode text with it, keep its results."""
