"""Draws growth curves: docs/growth_*.svg.

    python -m benchmarks.curves CHECKPOINT [--rounds N] [--graph FILE]

FILE is the output of ``python -m benchmarks.graph --json FILE``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer

from .encoding import chunk, settle, transformers_encoder
from .measure import paired

DOCS = Path(__file__).parent.parent / "docs"
COLOURS = ("#2266cc", "#cc5522", "#338844", "#884488", "#777777")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 340, 64, 34, 130, 46

Line = Sequence[tuple[float, float]]


def picture(title: str, x_label: str, y_label: str, lines: Mapping[str, Line]) -> str:
    """Draw *lines* as SVG on logarithmic axes; linear growth is parallel to y = x."""
    points = [point for line in lines.values() for point in line]
    low_x, high_x = (f(x for x, _ in points) for f in (min, max))
    low_y, high_y = (f(y for _, y in points) for f in (min, max))
    low_y, high_y = low_y / 1.3, high_y * 1.3
    bottom = HEIGHT - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / low_x) / math.log(high_x / low_x)
        up = math.log(y / low_y) / math.log(high_y / low_y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), bottom - up * (bottom - TOP)

    def text(x: float, y: float, words: str, more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 20, title, 'font-size="14" font-weight="bold"'),
        text(LEFT, HEIGHT - 10, x_label),
        text(8, TOP - 2, y_label),
    ]
    for x in sorted({x for x, _ in points}):
        across, _ = place(x, low_y)
        parts.append(f'<path d="M{across:.1f} {TOP}V{bottom}" stroke="#eee"/>')
        parts.append(text(across, bottom + 16, f"{x:g}", 'text-anchor="middle"'))
    for power in range(math.floor(math.log10(low_y)), math.ceil(math.log10(high_y)) + 1):
        for y in (10.0**power, 2 * 10.0**power, 5 * 10.0**power):
            if low_y <= y <= high_y:
                _, up = place(low_x, y)
                parts.append(f'<path d="M{LEFT} {up:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>')
                parts.append(text(LEFT - 6, up + 4, f"{y:g}", 'text-anchor="end"'))
    for colour, (name, line) in zip(COLOURS, lines.items(), strict=False):
        placed = [place(x, y) for x, y in line]
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(text(placed[-1][0] + 8, placed[-1][1] + 4, name, f'fill="{colour}"'))
    return "\n".join([*parts, "</svg>\n"])


def encode_curves(checkpoint: str, rounds: int) -> dict[str, str]:
    clip = load_clip(checkpoint, device="cpu", dtype="fp32")
    encoder = clip.cond_stage_model.clip_h
    settle(clip)
    encoder.setup = replace(encoder.setup, cache=None)
    peer = transformers_encoder(clip)
    batches: dict[str, list[tuple[float, float]]] = {"ours": [], "transformers": []}
    for size in (1, 2, 4, 8, 16):
        chunks = [chunk(300 + 100 * number) for number in range(size)]
        ids = torch.tensor(chunks)
        works = {
            "ours": lambda chunks=chunks: encoder.encode_chunks(chunks, 0),
            "transformers": lambda ids=ids: peer(ids),
        }
        for name, seconds in paired(works, rounds).items():  # type: ignore[arg-type]
            batches[name].append((size, statistics.median(seconds)))
    tokenizer = SD2Tokenizer()
    lengths = []
    for words in (10, 75, 150, 300, 600):
        tokens = tokenizer.tokenize_with_weights("cat " * words)
        work = {"ours": lambda tokens=tokens: clip.encode_from_tokens(tokens)}
        lengths.append((words, statistics.median(paired(work, rounds)["ours"])))  # type: ignore[arg-type]
    title, tokens_label = "Encoding a long prompt on the CPU", "tokens (75 to a chunk)"
    return {
        "batch": picture("Encoding a batch on the CPU", "prompts", "seconds", batches),
        "length": picture(title, tokens_label, "seconds", {"ours": lengths}),
    }


def graph_curve(file: Path) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in json.loads(file.read_text(encoding="utf-8")):
        if "again" in row and "," not in row["what"]:  # ours, not a peer's
            lines.setdefault(row["what"], []).append((row["nodes"], row["first"]))
            lines.setdefault(f"{row['what']}, again", []).append((row["nodes"], row["again"]))
    return picture("Running a graph of trivial nodes", "nodes", "seconds", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--graph", type=Path)
    arguments = parser.parse_args()
    with torch.no_grad():
        pictures = encode_curves(arguments.checkpoint, arguments.rounds)
    if arguments.graph:
        pictures["nodes"] = graph_curve(arguments.graph)
    DOCS.mkdir(exist_ok=True)
    for name, svg in pictures.items():
        (DOCS / f"growth_{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
