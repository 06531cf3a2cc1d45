"""Compares encoding a data set with the usual loop: transformers' tokenizer and model, torch.save.

python -m benchmarks.dataset CHECKPOINT [--captions N]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.dataset.caption_encoder import CaptionEncoder
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.sd2.tokens.bpe import clip_tokenizer

from .encoding import transformers_encoder
from .measure import Row, absolute, paired, ratio, to_json

BATCH = 32
WORDS = ("photo", "painting", "red", "old", "small", "cat", "dog", "house", "tree", "blue", "sky")


def captions(count: int) -> list[str]:
    """Create captions of 15 words, one in ten of which comes twice, as in scraped data sets."""
    texts = []
    for number in range(count):
        digits = number - 1 if number % 10 == 9 else number
        words = [WORDS[(digits // len(WORDS) ** place) % len(WORDS)] for place in range(3)]
        texts.append(" ".join(words * 5))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--captions", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    data = captions(arguments.captions)
    encoder = CaptionEncoder(arguments.checkpoint, device="cpu", dtype="fp32")
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        peer = transformers_encoder(load_clip(arguments.checkpoint, device="cpu", dtype="fp32"))
        tokenizer = clip_tokenizer().transformers
        tokenizer.pad_token = "!"
        runs = iter(range(1000))
        source = Path(folder, "captions.txt")
        source.write_text("\n".join(data), encoding="utf-8")

        def ours() -> None:
            out = str(Path(folder, str(next(runs))))
            encode_captions(str(source), out, encoder, make_format(), fragment_size=BATCH)

        def usual() -> None:
            for start in range(0, len(data), BATCH):
                texts = data[start : start + BATCH]
                ids = tokenizer(
                    texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
                ).input_ids
                states = peer(ids).half()  # type: ignore[attr-defined]
                torch.save(states, Path(folder, f"{start}.pt"))

        times = paired({"ours": ours, "usual": usual}, arguments.rounds)
    rate = arguments.captions / sorted(times["ours"])[len(times["ours"]) // 2]
    note = f"{arguments.captions} captions: {absolute(times)}; {rate:.1f} a second"
    row = Row(
        "captions to disk / transformers' loop", ratio(times, "ours", "usual"), "×", 1.0, note=note
    )
    print(to_json([row]))


if __name__ == "__main__":
    main()
