"""The nodes: declarations, and one short method each."""

from typing import Any

from .conditioning import LoadSD2Conditioning, SaveSD2Conditioning
from .embeddings import LoadSD2Embeddings
from .encode import EncodeSD2Text, EncodeSD2TextList, InspectSD2Text
from .load import LoadSD2CLIP
from .lora import LoadSD2CLIPLora

NODE_CLASSES: list[Any] = [
    LoadSD2CLIP,
    EncodeSD2Text,
    InspectSD2Text,
    SaveSD2Conditioning,
    LoadSD2Conditioning,
    LoadSD2CLIPLora,
    EncodeSD2TextList,
    LoadSD2Embeddings,
]
