"""Compares encoding a data set with the encoder alone and with the usual loop over transformers.

    python -m benchmarks.dataset CHECKPOINT [--captions N] [--rounds N]
    python -m benchmarks.dataset CHECKPOINT --gpu N     # captions a second of GPU N, by batch size

The usual loop is transformers' tokenizer and model, and torch.save.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.dataset.caption_encoder import SMALLEST_BATCH, CaptionEncoder
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.encode_fragment import encode_chunks
from sd2_clip.dataset.formats import make_format
from sd2_clip.sd2.tokens.bpe import clip_tokenizer
from sd2_clip.sd2.tokens.chunks import pad_chunk

from .encoding import transformers_encoder
from .measure import Row, absolute, paired, ratio, to_json

BATCH = 32
GPU_BATCHES = (1, 8, 32, 64, 128, 256, 512)
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
    parser.add_argument("--gpu", type=int)
    arguments = parser.parse_args()
    if arguments.gpu is None:
        rows = cpu_rows(arguments.checkpoint, arguments.captions, arguments.rounds)
    else:
        rows = gpu_rows(arguments.checkpoint, arguments.gpu, arguments.rounds)
    print(to_json(rows))


def cpu_rows(checkpoint: str, count: int, rounds: int) -> list[Row]:
    """Measure all of the work on the CPU in fp32."""
    data = captions(count)
    encoder = CaptionEncoder(checkpoint, device="cpu", dtype="fp32")
    distinct = [pad_chunk(ids) for ids in encoder.tokenize(list(dict.fromkeys(data)))]
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        peer = transformers_encoder(load_clip(checkpoint, device="cpu", dtype="fp32"))
        tokenizer = clip_tokenizer().transformers
        tokenizer.pad_token = "!"
        runs = iter(range(1000))
        source = Path(folder, "captions.txt")
        source.write_text("\n".join(data), encoding="utf-8")

        def ours() -> None:
            encode_captions(str(source), str(Path(folder, str(next(runs)))), encoder, make_format())

        def bare() -> None:
            encode_chunks(encoder, distinct)

        def usual() -> None:
            for start in range(0, len(data), BATCH):
                texts = data[start : start + BATCH]
                ids = tokenizer(
                    texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
                ).input_ids
                states = peer(ids).half()  # type: ignore[attr-defined]
                torch.save(states, Path(folder, f"{start}.pt"))

        times = paired({"ours": ours, "bare": bare, "usual": usual}, rounds)
    rate = count / sorted(times["ours"])[len(times["ours"]) // 2]
    note = f"{count} captions: {absolute(times)}; {rate:.1f} a second"
    against_bare = ratio(times, "ours", "bare")
    against_usual = ratio(times, "ours", "usual")
    return [
        Row("captions to disk: rate / bare encoder's", 1 / against_bare, "×", 0.95, True, note),
        Row("captions to disk: rate / transformers' loop's", 1 / against_usual, "×", 1.2, True),
    ]


def gpu_rows(checkpoint: str, number: int, rounds: int) -> list[Row]:
    """Measure captions a second of one GPU in fp16, from token ids to fp16 in memory, by batch."""
    name = torch.cuda.get_device_name(number)
    rows = []
    for batch in GPU_BATCHES:
        encoder = CaptionEncoder(
            checkpoint, device=f"gpu:{number}", dtype="fp16", batch_size=max(batch, SMALLEST_BATCH)
        )
        chunks = [pad_chunk(range(300 + n, 330 + n)) for n in range(batch)]
        repeats = max(1024 // batch, 4)
        seconds = []
        for _ in range(rounds + 1):  # the first one does not count
            started = time.perf_counter()
            for _ in range(repeats):
                encoder.encode_chunks(chunks)  # copies its result: it waits for the GPU
            seconds.append(time.perf_counter() - started)
        rate = batch * repeats / min(seconds[1:])
        rows.append(Row(f"captions a second, batch {batch}", rate, "/s", note=name))
    return rows


if __name__ == "__main__":
    main()
