"""Caption data sets to embeddings: ``sd2-clip encode``, and its parts for a trainer's pipeline."""

from .encoder import CaptionEncoder
from .reader import EncodedCaptions

__all__ = ["CaptionEncoder", "EncodedCaptions"]
