"""A1111's prompt language: a prompt to texts with times and strengths, and those to segments.

The dialect as users of AUTOMATIC1111's web UI and Forge know it, in the order in which they apply
it: ``<lora:name:1>`` and its like are taken out; ``AND`` separates prompts, each with ``:weight``
at its end; prompt editing (``a1111_schedule``) makes texts that follow each other in time; each of
those has brackets and ``BREAK`` (``a1111_attention``).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import and_more
from .a1111_attention import parse_attention
from .a1111_schedule import read_schedule
from .comfy import Segment

_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"[-+]?(?:\d+\.?|\d*\.\d+)")
_NETWORK = re.compile(r"<(\w+):")
_LONGEST_NUMBER = 30


@dataclass(frozen=True)
class Part:
    """One text of a prompt: when it holds, and how strong it is beside the others."""

    text: str
    sections: tuple[tuple[Segment, ...], ...]
    """Between BREAKs; each begins a chunk."""
    start: float = 0.0
    end: float = 1.0
    """Shares of the sampling."""
    strength: float = 1.0


@dataclass(frozen=True)
class A1111Prompt:
    """All texts of a prompt, and what the user should know about them."""

    parts: tuple[Part, ...]
    strengths: tuple[float, ...]
    """The weight of each prompt between ANDs."""
    warnings: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    """``<lora:…>`` and its like, as written; they are not applied."""
    obstacle: str | None = None
    """Why no list of conditionings can mean the same."""


def parse_a1111(text: str, steps: int | None = None) -> A1111Prompt:
    """*text* in A1111's dialect; *steps* of sampling, for what counts them."""
    text, networks = take_networks(text)
    warnings: list[str] = []
    if networks:
        warnings.append(
            f"{and_more(networks)} is not applied here; "
            "load it with Load SD2 LoRA (CLIP only) or ComfyUI's Load LoRA"
        )
    parts: list[Part] = []
    strengths: list[float] = []
    for prompt in _AND.split(text):
        prompt, strength = _take_weight(prompt)
        strengths.append(strength)
        schedule = read_schedule(prompt, steps)
        warnings.extend(schedule.warnings)
        for span in schedule.spans:
            sections, notes = parse_attention(span.text)
            warnings.extend(notes)
            parts.append(Part(span.text, sections, span.start, span.end, strength))
    total = sum(strengths)
    if total > 0 and not math.isclose(total, 1.0):
        warnings.append(_about_cfg(strengths, total))
    obstacle = _no_average(strengths, total) if total <= 0 and len(strengths) > 1 else None
    unique = tuple(dict.fromkeys(warnings))
    return A1111Prompt(tuple(parts), tuple(strengths), unique, tuple(networks), obstacle)


def take_networks(text: str) -> tuple[str, list[str]]:
    """*text* without ``<kind:…>``, and what was taken, in order."""
    kept: list[str] = []
    taken: list[str] = []
    done = 0
    for match in _NETWORK.finditer(text):
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
    """The weight at the end of a prompt, which A1111 reads with and without AND."""
    text = prompt.rstrip()
    colon = text.rfind(":")
    number = text[colon + 1 :].strip() if colon != -1 else ""
    if len(number) <= _LONGEST_NUMBER and _AND_WEIGHT.fullmatch(number):
        return text[:colon].rstrip(), float(number)
    return text, 1.0


# A1111: uncond + cfg * sum(w * (cond - uncond))
# ComfyUI: uncond + cfg * (sum(w * cond) / sum(w) - uncond)
# They are equal if ComfyUI's cfg is A1111's times sum(w), which must be above 0.


def _about_cfg(strengths: list[float], total: float) -> str:
    where = "AND" if len(strengths) > 1 else "the ':number' that ends the text"
    return (
        f"{where}: the weights {_sum(strengths)} make {total:g}. A1111 multiplies its CFG scale by "
        f"each, ComfyUI averages: multiply the sampler's cfg by {total:g} for A1111's picture"
    )


def _no_average(strengths: list[float], total: float) -> str:
    return (
        f"AND: the weights {_sum(strengths)} make {total:g}. ComfyUI divides by their sum, so they "
        "cannot mean what they mean in A1111. Choose weights with a sum above 0, or take the "
        "unwanted prompt out and encode it as the negative"
    )


def _sum(strengths: list[float]) -> str:
    listed = " + ".join(f"{one:g}" for one in strengths[:6])
    return listed if len(strengths) <= 6 else f"{listed} + …"
