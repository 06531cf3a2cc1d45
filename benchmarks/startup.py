"""Measures start-up of the commands and the import, each in its own process, and tokenizing.

python -m benchmarks.startup CHECKPOINT.safetensors
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

from .measure import Row, paired, ratio, to_json

IMPORT = """
import time, torch, transformers
started = time.perf_counter()
import sd2_clip
print(time.perf_counter() - started)
"""

CAPTIONS = [
    f"a photograph of an astronaut number {number} riding a horse on the moon, cinematic light, 4k"
    for number in range(1000)
]


def command(*words: str, rounds: int = 9) -> tuple[float, float]:
    """Return the medians of wall-clock and processor seconds of a command."""
    passed, busy = [], []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE)
        passed.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        busy.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(passed), statistics.median(busy)


def importing(rounds: int = 5) -> float:
    words = [sys.executable, "-c", IMPORT]
    return 1000 * statistics.median(
        float(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)
        for _ in range(rounds)
    )


def tokenizing() -> list[Row]:
    from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
    from sd2_clip.sd2.tokens.bpe import clip_tokenizer

    ours, one = SD2Tokenizer(), clip_tokenizer()
    library = one._tokenizer.encode
    works = {
        "library": lambda: [library(text, add_special_tokens=False).ids for text in CAPTIONS],
        "tokens": lambda: [one.encode(text) for text in CAPTIONS],
        "chunks": lambda: [ours.tokenize_with_weights(text) for text in CAPTIONS],
    }  # fmt: skip
    times = paired(works, 9)  # type: ignore[arg-type]
    return [
        Row("tokenizing captions: speed / tokenizers alone", ratio(times, "library", "tokens"), "×",
            0.8, at_least=True),
        Row("the same with parsing and chunks", ratio(times, "library", "chunks"), "×",
            note="weights, word groups, embeddings, 77 places a chunk"),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    checkpoint = parser.parse_args().checkpoint
    bare, _ = command("-c", "pass")
    inspecting, inspecting_busy = command("-m", "sd2_clip", "inspect", checkpoint)
    helping, helping_busy = command("-m", "sd2_clip", "--help")
    rows = [
        Row("sd2-clip inspect on 5.2 GB, whole process", inspecting, "s", 0.25,
            note=f"processor {inspecting_busy:.3f} s; bare Python takes {bare:.3f} s"),
        Row("sd2-clip --help", helping, "s", 0.15, note=f"processor {helping_busy:.3f} s"),
        Row("import beside torch and transformers", importing(), "ms", 30),
        *tokenizing(),
    ]  # fmt: skip
    print(to_json(rows))


if __name__ == "__main__":
    main()
