"""Measures parsing of texts from 1 kB to 1 MB in both syntaxes.

    python benchmarks/text.py     # with the package installed: pip install -e .

Prints processor seconds (best of three) for each size and, in the last column, the exponent of
growth between the last two sizes: 1 is linear.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
from sd2_clip.sd2.syntax.a1111 import parse_a1111
from sd2_clip.sd2.syntax.comfy import parse_comfy
from sd2_clip.sd2.tokens.tokenize_text import tokenize_text

SIZES = (1_000, 10_000, 100_000, 1_000_000)
STEPS = 10

TEXTS: dict[str, Callable[[int], str]] = {
    "prose": lambda size: "a photograph of an astronaut, " * (size // 30),
    "weights": lambda size: "(word:1.2) [other] " * (size // 19),
    "one word": lambda size: "x" * size,
    "blanks": lambda size: " " * size,
    "(((": lambda size: "(" * size,
    ")))": lambda size: ")" * size,
    "(((x)))": lambda size: "(" * (size // 2) + ")" * (size // 2),
    "[[[x]]]": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "(a:(a:": lambda size: "(a:" * (size // 3),
    ":::": lambda size: ":" * size,
    "[a:[a:": lambda size: "[a:" * (size // 8) + "b" + ":.5]" * (size // 8),
    "[a|b]": lambda size: "[a|b]" * (size // 5),
    "<a:<a:": lambda size: "<a:" * (size // 3),
    "a AND a": lambda size: "a AND " * (size // 6),
    "backslashes": lambda size: "\\" * size,
    "digits": lambda size: "(a:" + "9" * size + ")",
}


def seconds(work: Callable[[], object]) -> float:
    best = math.inf
    for _ in range(3):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
        if best > 1:
            break
    return best


def curve(name: str, run: Callable[[str], object], make: Callable[[int], str]) -> str:
    times = []
    for size in SIZES:
        text = make(size)
        times.append(seconds(lambda text=text: run(text)))  # type: ignore[misc]
    growth = math.log10(max(times[-1], 1e-6) / max(times[-2], 1e-6))
    return f"{name:<14}" + "".join(f"{one:>11.5f}" for one in times) + f"{growth:>9.2f}"


def main() -> None:
    tokenizer = SD2Tokenizer().clip_h
    tables: dict[str, Callable[[str], object]] = {
        "parse comfy": parse_comfy,
        "parse a1111": lambda text: parse_a1111(text, STEPS),
        "tokenize comfy": lambda text: tokenize_text(tokenizer, text),
        "tokenize a1111": lambda text: tokenize_text(tokenizer, text, syntax="a1111", steps=STEPS),
    }
    for title, run in tables.items():
        sizes = "".join(f"{size:>10}B" for size in SIZES)
        sys.stdout.write(f"\n{title:<14}{sizes}{'growth':>9}\n")
        for name, make in TEXTS.items():
            sys.stdout.write(curve(name, run, make) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
