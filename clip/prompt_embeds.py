"""Encodes prompts as diffusers' pipelines take them: ``prompt_embeds`` of one length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..sd2.errors import OptionError
from .encode_text import encode_text, encode_texts

if TYPE_CHECKING:
    from ..host.interface import Clip, Conditioning


def prompt_embeds(
    clip: Clip,
    prompts: str | Sequence[str],
    negatives: str | Sequence[str] | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Any:
    """Encode N *prompts* to (N, 77 * k, 1024), where k is the most chunks that one of them takes.

    With *negatives*, return ``(prompt_embeds, negative_prompt_embeds)`` of one shape; a single
    negative counts for every prompt. A text of fewer chunks is filled up with the empty prompt's.
    *options* are the fields of ``EncodeOptions``; with ``padding="none"`` all texts must have
    equally many tokens. *device* and *dtype* are those of the pipeline; None: as encoded.
    """
    positive = _texts("prompts", prompts)
    negative = None if negatives is None else _texts("negatives", negatives)
    if negative is not None and len(negative) == 1:
        negative *= len(positive)
    if negative is not None and len(negative) != len(positive):
        raise OptionError(
            f"There are {len(positive)} prompts and {len(negative)} negatives. Give as many "
            "negatives as prompts, or one for all."
        )
    texts = [*positive, *(negative or ())]
    distinct = list(dict.fromkeys(texts))
    encoded = {
        text: only_tensor(text, one.conditioning)
        for text, one in zip(distinct, encode_texts(clip, distinct, **options), strict=True)
    }
    lengths = {text: cond.shape[1] for text, cond in encoded.items()}
    longest = max(lengths.values())
    if options.get("padding") == "none":
        if len(set(lengths.values())) > 1:
            counts = ", ".join(str(lengths[text] - 2) for text in distinct)
            raise OptionError(
                f"padding 'none' cannot bring texts of {counts} tokens to one length. Encode them "
                "one by one, or set padding to 'chunk'."
            )
    elif any(length < longest for length in lengths.values()):
        empty = single_cond(clip, "", **options)
        encoded = {text: _filled_up(cond, empty, longest) for text, cond in encoded.items()}
    stacked = torch.cat([encoded[text] for text in texts]).to(device=device, dtype=dtype)
    if negative is None:
        return stacked
    return stacked[: len(positive)], stacked[len(positive) :]


def single_cond(clip: Clip, text: str, **options: Any) -> torch.Tensor:
    """Encode *text* to one tensor, (1, T, 1024); an error if it makes several, or all layers."""
    return only_tensor(text, encode_text(clip, text, **options).conditioning)


def only_tensor(text: str, conditioning: Conditioning) -> torch.Tensor:
    """Return the one tensor, (1, T, 1024), that *text* was encoded to."""
    if len(conditioning) > 1:
        raise OptionError(
            f"{text[:60]!r} makes {len(conditioning)} prompts (by prompt editing, AND, or weights "
            "that are scheduled), and a tensor holds one. Encode it with encode_text."
        )
    [(cond, _)] = conditioning
    if cond.dim() != 3:
        raise OptionError("This CLIP returns all layers. Load it with another layer.")
    return cond  # type: ignore[no-any-return]


def _texts(name: str, given: str | Sequence[str]) -> list[str]:
    texts = [given] if isinstance(given, str) else list(given)
    if not texts:
        raise OptionError(f"{name} is an empty list. Give a text, or a list of texts.")
    return texts


def _filled_up(cond: torch.Tensor, empty: torch.Tensor, length: int) -> torch.Tensor:
    missing = (length - cond.shape[1]) // empty.shape[1]
    return torch.cat([cond, *[empty] * missing], dim=1)
