"""Parses A1111's prompt syntax into prompts, each with its time, strength and weighted segments.

The syntax as users of AUTOMATIC1111's web UI and Forge know it, in the order in which they apply
it: ``#`` begins a comment, to the end of the line, whatever stands before it; ``<lora:name:1>`` and
other extra networks are taken out; ``AND`` separates prompts, each with ``:weight`` at its end;
prompt editing (``a1111_schedule``) turns each into texts that follow each other in time; each of
those has brackets and ``BREAK`` (``a1111_attention``).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import and_more
from .a1111_attention import parse_attention
from .a1111_schedule import parse_schedule
from .segments import Section

_COMMENT = re.compile("#[^\n]*")
_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_EXTRA_NETWORK = re.compile(r"<(\w+):")
_LONGEST_NUMBER = 30


@dataclass(frozen=True)
class ParsedPrompt:
    """One prompt of a text, when it holds, and its strength relative to the others."""

    text: str
    sections: tuple[Section, ...]
    """What BREAK separates; each begins a chunk."""
    start: float = 0.0
    end: float = 1.0
    """Share of the sampling, 0 to 1."""
    strength: float = 1.0


@dataclass(frozen=True)
class A1111Text:
    """The prompts of a text and the messages about it."""

    prompts: tuple[ParsedPrompt, ...]
    strengths: tuple[float, ...]
    """The weight of each prompt that AND separates."""
    warnings: tuple[str, ...] = ()
    extra_networks: tuple[str, ...] = ()
    """``<lora:…>`` and others, as written; they are not applied."""
    comments: int = 0
    """How many were left out."""
    error: str | None = None
    """Error message if this text cannot be expressed as conditioning, else None."""


def parse_a1111(text: str, steps: int | None = None) -> A1111Text:
    """Parse *text* as A1111 does; *steps* of sampling are for prompt editing that counts them."""
    text, comments = _COMMENT.subn("", text)
    text, extra_networks = take_extra_networks(text)
    warnings: list[str] = []
    if extra_networks:
        warnings.append(
            f"not applied: {and_more(extra_networks)}. Load a LoRA with Load SD2 LoRA (CLIP only) "
            "or ComfyUI's Load LoRA"
        )
    prompts: list[ParsedPrompt] = []
    strengths: list[float] = []
    for prompt in _AND.split(text):
        prompt, strength = _take_weight(prompt)
        strengths.append(strength)
        schedule = parse_schedule(prompt, steps)
        warnings.extend(schedule.warnings)
        for span in schedule.spans:
            parsed = parse_attention(span.text)
            warnings.extend(parsed.warnings)
            prompts.append(ParsedPrompt(span.text, parsed.sections, span.start, span.end, strength))
    total = sum(strengths)
    if total > 0 and not math.isclose(total, 1.0):
        warnings.append(_cfg_warning(strengths, total))
    error = _average_error(strengths, total) if total <= 0 and len(strengths) > 1 else None
    unique = tuple(dict.fromkeys(warnings))
    return A1111Text(
        tuple(prompts), tuple(strengths), unique, tuple(extra_networks), comments, error
    )


def take_extra_networks(text: str) -> tuple[str, list[str]]:
    """Split *text* into the text without ``<kind:…>``, and those in order."""
    kept: list[str] = []
    taken: list[str] = []
    done = 0
    for match in _EXTRA_NETWORK.finditer(text):
        if match.start() < done:
            continue  # inside one that was taken
        end = text.find(">", match.end())
        if end == -1:
            break
        if end > match.end():
            kept.append(text[done : match.start()])
            taken.append(text[match.start() : end + 1])
            done = end + 1
    kept.append(text[done:])
    return "".join(kept), taken


def _take_weight(prompt: str) -> tuple[str, float]:
    """Split off the weight that ends a prompt; A1111 applies it with and without AND."""
    text = prompt.rstrip()
    colon = text.rfind(":")
    number = text[colon + 1 :].strip() if colon != -1 else ""
    if len(number) <= _LONGEST_NUMBER and _AND_WEIGHT.fullmatch(number):
        return text[:colon].rstrip(), float(number)
    return text, 1.0


# A1111: uncond + cfg * sum(w * (cond - uncond))
# ComfyUI: uncond + cfg * (sum(w * cond) / sum(w) - uncond)
# Both are equal if ComfyUI's cfg is A1111's times sum(w), which must be above 0.


def _cfg_warning(strengths: list[float], total: float) -> str:
    where = "AND" if len(strengths) > 1 else "the ':number' that ends the text"
    return (
        f"{where}: the weights {_sum(strengths)} add up to {total:g}. A1111 multiplies its "
        f"CFG scale by each, ComfyUI averages: multiply the sampler's cfg by {total:g} for the "
        "result of A1111"
    )


def _average_error(strengths: list[float], total: float) -> str:
    return (
        f"AND: the weights {_sum(strengths)} add up to {total:g}. ComfyUI divides by their sum, so "
        "they cannot mean what they mean in A1111. Choose weights with a sum above 0, or remove "
        "the unwanted prompt and encode it as the negative"
    )


def _sum(strengths: list[float]) -> str:
    listed = " + ".join(f"{one:g}" for one in strengths[:6])
    return listed if len(strengths) <= 6 else f"{listed} + …"
