"""Works with CLIP handles: loads them, encodes text with them, saves the results."""
