"""Finds what looks like A1111's syntax in a text that is parsed as ComfyUI's, where it is text."""

import re

from ..errors import and_more

_EXTRA_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>\n]{0,60}>?")
_SQUARE = re.compile(r"(?<!\\)\[[^\[\]\n]+\]")
# A word between others in capitals is probably no command: "ROCK AND ROLL".
_COMMAND = re.compile(r"(?<![A-Z][ \t])\b(?:BREAK|AND)\b(?![ \t]+[A-Z]{2})")
_WILDCARD = re.compile(r"(?<!\w)__[\w./*-]{1,80}?__(?!\w)")
_HAS_TEXT = re.compile(r"[^\W_]")

LONGEST_QUOTE = 40


def a1111_hint(text: str) -> str | None:
    """Say in a line what in *text* has a meaning in A1111's syntax only; None: nothing has."""
    networks = _EXTRA_NETWORK.findall(text)
    square = [one for one in _SQUARE.findall(text) if one[1:-1].strip() and one[-2] != "\\"]
    commands = [*square, *_COMMAND.findall(text)]
    wildcards = [one for one in _WILDCARD.findall(text) if _HAS_TEXT.search(one)]
    if not (networks or commands or wildcards):
        return None
    found = dict.fromkeys(_shortened(one) for one in (*networks, *commands, *wildcards))
    cures = []
    if networks or commands:
        cures.append("set syntax to a1111 if that is meant")
    if networks:
        cures.append("load LoRAs with a loader node")
    if wildcards:
        cures.append("no syntax here fills in wildcards")
    return f"read as plain text, but looks like A1111's: {and_more(found, 4)}; {'; '.join(cures)}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…"
