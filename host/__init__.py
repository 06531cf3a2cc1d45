"""The one seam to whatever runs us."""
