"""Compares encoding on the CPU with transformers and with the matrix products alone.

python -m benchmarks.encoding CHECKPOINT [--rounds N]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from sd2_clip.clip.encode_text import encode_text, encode_texts
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.model import onednn

from .measure import Row, absolute, milliseconds, paired, ratio, to_json

LAYERS = 23
Chunk = list[int]


def chunk(first: int, length: int = 70) -> Chunk:
    """Build a chunk of *length* tokens; chunks with different *first* share no prefix."""
    return [49406, *range(first, first + length), 49407] + [0] * (75 - length)


def fresh_chunks() -> Iterator[Chunk]:
    return (chunk(300 + 7 * number % 40000) for number in count())


def transformers_encoder(clip: Any) -> Callable[[torch.Tensor], object]:
    """Build transformers' CLIPTextModel with 23 layers, as in diffusers' SD2, on our weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = {
        name.removeprefix("clip_h.transformer."): tensor
        for name, tensor in clip.cond_stage_model.state_dict().items()
        if ".transformer.text_model." in name and f".layers.{LAYERS}." not in name
    }
    config = CLIPTextConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        hidden_act="gelu",
        vocab_size=49408,
    )
    with torch.device("meta"):
        model = CLIPTextModel(config).train(False).requires_grad_(False)
    wanted = set(model.state_dict())
    if not any(name in wanted for name in weights):  # transformers 5 dropped the prefix
        weights = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    assert not [name for name in (*missing, *unexpected) if "position_ids" not in name]
    for module in model.modules():
        if "position_ids" in module._buffers:
            module.position_ids = torch.arange(77)[None]
    return lambda ids: model(input_ids=ids).last_hidden_state


def bare_products(clip: Any, rows: int, *, packed: bool) -> Callable[[], None]:
    """Compute only the matrix products of encoding *rows* positions."""
    product = onednn.linear_pointwise()
    x = {width: torch.randn(rows, width) for width in (1024, 4096)}
    works = []
    for layer in clip.cond_stage_model.clip_h.transformer.text_model.encoder.layers[:LAYERS]:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                weight = module._parameters["weight"]  # reading `weight` drops what is packed
                if packed:
                    weight = onednn.reorder_weight()(weight, rows)
                works.append((x[module.in_features], weight, module._parameters["bias"]))

    def run() -> None:
        for one, weight, bias in works:
            if product is None:
                torch.nn.functional.linear(one, weight, bias)
            else:
                product(one, weight, bias, "none", [], "")

    return run


def settle(clip: Any) -> None:
    """Encode until the weights are packed, as in a process that has encoded many prompts."""
    encoder = clip.cond_stage_model.clip_h
    setup, encoder.setup = encoder.setup, replace(encoder.setup, cache=None)
    for _ in range(int(onednn.PACK_AFTER)):
        encoder.encode_chunks([chunk(300)], 1)
    encoder.setup = setup


def speed_rows(clip: Any, unpacked: Any, batch: int, rounds: int) -> list[Row]:
    encoder = clip.cond_stage_model.clip_h
    setup, encoder.setup = encoder.setup, replace(encoder.setup, cache=None)
    chunks = [chunk(300 + 100 * number) for number in range(batch)]
    ids = torch.tensor(chunks)
    peer = transformers_encoder(clip)
    expected, found = peer(ids), encoder.encode_chunks(chunks, 0)[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    works: dict[str, Callable[[], object]] = {
        "transformers": lambda: peer(ids),
        "ours": lambda: encoder.encode_chunks(chunks, 0),
        "ours at first": lambda: unpacked.encode_chunks(chunks, 0),
        "products": bare_products(clip, 77 * batch, packed=False),
    }
    if onednn.reorder_weight() is not None:
        works["packed products"] = bare_products(clip, 77 * batch, packed=True)
    times = paired(works, rounds)
    encoder.setup = setup
    best = min(
        (name for name in works if "products" in name), key=lambda n: ratio(times, n, "ours")
    )
    name = "one prompt" if batch == 1 else f"batch of {batch}"
    limits = (0.65, 0.85) if batch == 1 else (0.9, 0.9)
    note = absolute(times)
    return [
        Row(f"{name} / transformers (sdpa)", ratio(times, "ours", "transformers"), "×", limits[0],
            note=note),
        Row(f"{name}: rate / that of the bare products", ratio(times, best, "ours"), "×", limits[1],
            at_least=True, note=f"best kernel: {best}"),
        Row(f"{name}, weights not packed yet / transformers",
            ratio(times, "ours at first", "transformers"), "×"),
    ]  # fmt: skip


def handle_rows(clip: Any, rounds: int) -> list[Row]:
    """Time a CLIP handle: weights, repeated and edited prompts, with and without pooled."""
    new = fresh_chunks()

    def encode(tokens: Chunk, weight: float = 1.0, *, pooled: bool = True) -> object:
        pairs = [(token, weight if 0 < token < 49406 else 1.0) for token in tokens]
        return clip.encode_from_tokens({"h": [pairs]}, return_pooled=pooled)

    same = next(new)
    edit_base = chunk(20000)
    edits = count(1)

    def edited() -> object:
        tokens = list(edit_base)
        tokens[48] = 1000 + next(edits)  # the first place of the last third of 70 tokens
        return encode(tokens)

    encode(next(new), 1.2)
    encode(edit_base)
    works: dict[str, Callable[[], object]] = {
        "plain": lambda: encode(next(new)),
        "weighted": lambda: encode(next(new), 1.2),
        "edited": edited,
        "same again": lambda: encode(same),
        "without pooled": lambda: encode(next(new), pooled=False),
    }
    encode(same)
    times = paired(works, rounds)
    note = absolute(times)
    return [
        Row("weighted / plain prompt", ratio(times, "weighted", "plain"), "×", 1.05, note=note),
        Row("the same prompt again", milliseconds(times, "same again"), "ms", 0.5),
        Row("edit in the last third / new prompt", ratio(times, "edited", "plain"), "×", 0.5),
        Row("without pooled / with it", ratio(times, "without pooled", "plain"), "×",
            note="the last block costs keys and values of all places and one row"),
    ]  # fmt: skip


PROMPTS = 32


def list_rows(clip: Any, unpacked: Any, rounds: int) -> list[Row]:
    """Time a list of prompts beside each of them alone, as Encode SD2 Text (List) does."""
    words = ["stone", "river", "cloud", "glass", "tower", "forest", "engine", "lantern"]
    texts = [
        f"{one} {other}, a painting of an old harbour at night, oil on canvas, warm light"
        for one in words
        for other in words[:4]
    ]
    assert len(texts) == PROMPTS

    def alone(handle: Any) -> list[Any]:
        handle.cond_stage_model.clip_h.setup.cache.clear()
        return [encode_text(handle, text) for text in texts]

    def together(handle: Any) -> list[Any]:
        handle.cond_stage_model.clip_h.setup.cache.clear()
        return encode_texts(handle, texts)

    apart = max(
        float((one.conditioning[0][0] - other.conditioning[0][0]).abs().max())
        for one, other in zip(alone(clip), together(clip), strict=True)
    )
    times = paired(
        {
            "alone": lambda: alone(clip),
            "list": lambda: together(clip),
            "alone at first": lambda: alone(unpacked),
            "list at first": lambda: together(unpacked),
        },
        rounds,
    )
    return [
        Row(f"a list of {PROMPTS} prompts / each alone", ratio(times, "list", "alone"), "×",
            note=absolute(times)),
        Row("the same, weights not packed yet", ratio(times, "list at first", "alone at first"),
            "×"),
        Row("largest difference between both", apart, "", 1e-4),
    ]  # fmt: skip


def dtype_rows(clip: Any, checkpoint: str, rounds: int) -> list[Row]:
    """Measure weights stored in half precision and computed in float32."""

    def size(handle: Any) -> int:
        return sum(p.numel() * p.element_size() for p in handle.cond_stage_model.parameters())

    rows = []
    tokens = [chunk(300)]
    for dtype in ("fp16", "bf16"):
        half = load_clip(checkpoint, device="cpu", dtype=dtype)
        encoders = {"fp32": clip.cond_stage_model.clip_h, dtype: half.cond_stage_model.clip_h}
        for encoder in encoders.values():
            encoder.setup = replace(encoder.setup, cache=None)
        works = {
            name: lambda encoder=encoder: encoder.encode_chunks(tokens, 0)
            for name, encoder in encoders.items()
        }
        times = paired(works, rounds)  # type: ignore[arg-type]
        rows += [
            Row(f"{dtype} storage: memory / fp32", size(half) / size(clip), "×", 0.55),
            Row(
                f"{dtype} storage: time / fp32", ratio(times, dtype, "fp32"), "×", note="the price"
            ),
        ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    rounds = arguments.rounds
    rows: list[Row] = []
    with torch.no_grad():
        clip = load_clip(arguments.checkpoint, device="cpu", dtype="fp32")
        settle(clip)
        onednn.PACK_AFTER = math.inf  # the others stay as they are
        unpacked = load_clip(arguments.checkpoint, device="cpu", dtype="fp32")
        first = unpacked.cond_stage_model.clip_h
        first.setup = replace(first.setup, cache=None)
        unpacked_lists = load_clip(arguments.checkpoint, device="cpu", dtype="fp32")
        parts: list[Callable[[], list[Row]]] = [
            lambda: speed_rows(clip, first, 1, rounds),
            lambda: handle_rows(clip, rounds),
            lambda: speed_rows(clip, first, 8, max(3, rounds // 3)),
            lambda: list_rows(clip, unpacked_lists, max(2, rounds // 4)),
            lambda: dtype_rows(clip, arguments.checkpoint, rounds),
        ]
        for part in parts:
            new = part()
            rows += new
            print(*new, sep="\n", file=sys.stderr, flush=True)
    print(to_json(rows))


if __name__ == "__main__":
    main()
