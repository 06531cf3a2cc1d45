"""Encodes data sets of captions: ``sd2-clip encode``, and its parts for a trainer's pipeline."""

from .caption_encoder import CaptionEncoder
from .encoded_captions import EncodedCaptions

__all__ = ["CaptionEncoder", "EncodedCaptions"]
