"""What others have published of SD2's text encoder: values of an encoding, and digests of files.

With these a file can be verified without a download and without another program.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).parent / "sd2_empty_prompt.json"


@dataclass(frozen=True)
class EncodedRows:
    """Some columns of the first rows of an encoding."""

    columns: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]
    """Of each row, the values at ``columns``."""
    norms: tuple[float, ...]
    """Of each row, the Euclidean norm over all columns."""


@cache
def empty_prompt_rows() -> EncodedRows:
    """Return the two rows of the empty prompt: the start token and the end token.

    Layer 23 of 24 and the final layer norm, in fp32. Attention is causal: the rows are the same
    whatever pads the prompt.
    """
    values = json.loads(_FILE.read_text(encoding="utf-8"))
    return EncodedRows(
        columns=tuple(values["columns"]),
        rows=(tuple(values["row0"]), tuple(values["row1"])),
        norms=tuple(values["norms"]),
    )


KNOWN_FILES = {
    "d635794c1fedfdfa261e065370bea59c651fc9bfa65dc6d67ad29e11869a1824": "512-base-ema.ckpt, SD 2.0",
    "bfcaf0755797b0c30eb00a3787e8b423eb1f5decd8de76c4d824ac2dd27e139f": "768-v-ema.ckpt, SD 2.0",
    "2a208a7ded5d42dcb0c0ec908b23c631002091e06afe7e76d16cd11079f8d4e3": (
        "512-inpainting-ema.ckpt, SD 2.0"
    ),
    "88ecb782561455673c4b78d05093494b9c539fc6bfc08f3a9a4a0dd7b0b10f36": (
        "v2-1_512-ema-pruned.ckpt, SD 2.1"
    ),
    "df955bdf6b682338ea9b55dfc0d8f3475aadf4836e204893d28b82355e0956d2": (
        "v2-1_512-ema-pruned.safetensors, SD 2.1"
    ),
    "ad2a33c361c1f593c4a1fb32ea81afce2b5bb7d1983c6b94793a26a3b54b08a0": (
        "v2-1_768-ema-pruned.ckpt, SD 2.1"
    ),
    "dcd690123cfc64383981a31d955694f6acf2072a80537fdb612c8e58ec87a8ac": (
        "v2-1_768-ema-pruned.safetensors, SD 2.1"
    ),
    "ff144a49841cf383adbc68841272ce639e1032b0a1f0f6586347feb953c244f4": (
        "v2-1_768-nonema-pruned.safetensors, SD 2.1"
    ),
    "cce6febb0b6d876ee5eb24af35e27e764eb4f9b1d0b7c026c8c3333d4cfc916c": (
        "text_encoder/model.safetensors of SD 2.0 inpainting, 2.1 and 2.1-base"
    ),
    "bc1827c465450322616f06dea41596eac7d493f4e95904dcb51f0fc745c4e13f": (
        "text_encoder/model.fp16.safetensors of SD-Turbo and Marigold"
    ),
    "9a78ef8e8c73fd0df621682e7a8e8eb36c6916cb3c16b291a082ecd52ab79cc4": (
        "open_clip_pytorch_model.bin of laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    ),
}
"""SHA-256 to what the file is; each stands in at least two independent public places."""
