"""Reads encoded captions as ComfyUI's conditioning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike

from ..clip.provenance import RECORD_KEY
from ..host.interface import Conditioning
from ..sd2.errors import OptionError
from .encoded_captions import EncodedCaptions
from .encoded_rows import LATENTS, POOLED

MOST = 100
"""Captions that are loaded if no keys are given."""


def load_as_conditioning(
    folder: str | PathLike[str], keys: Sequence[str]
) -> tuple[list[Conditioning], int]:
    """Return a conditioning for each of *keys*, or of the first ``MOST`` captions without any.

    The second value is the number of captions in *folder*. Tensors are float32, as an encoder's.
    """
    captions = EncodedCaptions(folder)
    count = len(captions)
    if not count:
        raise OptionError(f"{folder} contains no captions. Encode some with sd2-clip encode.")
    numbers = captions.find(keys) if keys else range(min(count, MOST))
    return [_conditioning(captions, number) for number in numbers], count


def _conditioning(captions: EncodedCaptions, number: int) -> Conditioning:
    row = captions[number]
    record = {"text": row["caption"], "key": row["key"], "encoded_captions": captions.settings}
    options = {RECORD_KEY: json.dumps(record)}
    if POOLED in row:
        options["pooled_output"] = row[POOLED].float().unsqueeze(0)
    return [[row[LATENTS].float().unsqueeze(0), options]]
