"""Our encoder beside ComfyUI's own, in ComfyUI's process: two ``comfy.sd.CLIP``, the same weights.

    COMFYUI_DIR=… PYTHON_OF_COMFYUI -m benchmarks.comfyui CHECKPOINT [--rounds N] [--gpu]

Both get the same tokens and weights through ``encode_from_tokens``, with a pooled vector, and both
keep weights as ComfyUI keeps them (fp16, unless CHECKPOINT or a flag says otherwise).
Every prompt is new, so that no result is a cached one; but the empty prompt of weights is.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any

import torch

from .measure import Row, absolute, clock, paired, ratio, to_json

FIRST = 10
"""Prompts that a user encodes before weights are packed, and while they are."""


def new_tokens() -> Callable[[float], Any]:
    """Return what makes a prompt that differs from all others from its first token on."""
    numbers = count()

    def tokens(weight: float) -> Any:
        first = 300 + 7 * next(numbers)
        chunk = [49406, *range(first, first + 40), 49407] + [0] * 35
        return {"h": [[(token, weight if 3 < i < 9 else 1.0) for i, token in enumerate(chunk)]]}

    return tokens


def core_clip(comfy_sd: Any, placement: Any, state_dict: dict[str, torch.Tensor]) -> Any:
    """Return ComfyUI's own CLIP on the same tensors."""
    from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer

    options = {
        "load_device": placement.load_device,
        "offload_device": placement.offload_device,
        "initial_device": placement.offload_device,
        "dtype": placement.dtype,
    }
    target = SimpleNamespace(params={}, clip=SD2ClipModel, tokenizer=SD2Tokenizer)
    clip = comfy_sd.CLIP(target, model_options=options)
    clip.load_sd(
        {
            name.removeprefix("clip_h.transformer."): tensor
            for name, tensor in state_dict.items()
            if ".transformer." in name
        }
    )
    return clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gpu", action="store_true", help="on ComfyUI's GPU instead of the CPU")
    arguments = parser.parse_args()
    # ComfyUI reads it when it is imported.
    sys.argv = sys.argv[:1] if arguments.gpu else [sys.argv[0], "--cpu"]
    sys.path.insert(0, os.environ["COMFYUI_DIR"])
    from comfy import options

    options.enable_args_parsing()
    import folder_paths  # noqa: F401 by which our host knows that this is ComfyUI
    from comfy import sd
    from comfyui_version import __version__
    from sd2_clip import host
    from sd2_clip.clip.load_clip import load_clip

    tokens = new_tokens()
    with torch.inference_mode():  # as ComfyUI runs nodes
        ours = load_clip(arguments.checkpoint, device="auto" if arguments.gpu else "cpu")
        assert type(host.current()).__name__ == "ComfyUIHost"
        placement = ours.cond_stage_model.source.placement
        core = core_clip(sd, placement, ours.cond_stage_model.state_dict())
        clips = {"ours": ours, "core": core}

        def encode(name: str, weight: float = 1.0) -> None:
            clips[name].encode_from_tokens(tokens(weight), return_pooled=True)

        def error(clip: Any, weight: float) -> float:
            """Return the relative error of states and pooled vector against core's."""
            same = tokens(weight)
            pairs = zip(
                clip.encode_from_tokens(same, return_pooled=True),
                core.encode_from_tokens(same, return_pooled=True),
                strict=True,
            )
            return max(float((a - b).norm() / b.norm()) for a, b in pairs)

        encode("core")  # ComfyUI loads the model at the first prompt
        first = dict.fromkeys(clips, 0.0)
        for _ in range(FIRST):
            for name in clips:
                started = clock()
                encode(name)
                first[name] += clock() - started
        errors = [error(ours, weight) for weight in (1.0, 1.2)]
        # On a GPU both compute in fp16, and round it each in its own way.
        tolerance = 0.01 if arguments.gpu else 1e-4
        assert max(errors) < tolerance, errors
        works: dict[str, Callable[[], object]] = {
            "ours": lambda: encode("ours"),
            "core": lambda: encode("core"),
            "ours weighted": lambda: encode("ours", 1.2),
            "core weighted": lambda: encode("core", 1.2),
        }
        times = paired(works, arguments.rounds)
        rows_of_cpu = []
        if not arguments.gpu:
            clips["bf16"] = low = load_clip(arguments.checkpoint, device="cpu", dtype="bf16")
            for _ in range(FIRST):
                encode("bf16")
            low_error = error(low, 1.0)
            low_times = paired(
                {"bf16": lambda: encode("bf16"), "core": works["core"]}, arguments.rounds
            )
            products = low.cond_stage_model.source.placement.product_dtype
            rows_of_cpu = [
                Row("first ten prompts / core's", first["ours"] / first["core"], "×", 0.75,
                    note="each new; the model's own first load is included"),
                Row("dtype bf16, one prompt / core's", ratio(low_times, "bf16", "core"), "×", 0.4,
                    note=f"products in {products}; relative error {low_error:.2g}"),
            ]  # fmt: skip
    on = torch.cuda.get_device_name() if arguments.gpu else "the CPU"
    where = f"{placement.dtype} on {on}"
    note = f"ComfyUI {__version__}, torch {torch.__version__}, {where}: {absolute(times)}"
    # Targets are the CPU's; on a GPU both encoders wait for the same kernels.
    warm, weighted, of_plain = (1.1, 1.1, 1.5) if arguments.gpu else (0.5, 0.4, 1.1)
    rows = [
        Row("inside ComfyUI: one prompt, warm / core's", ratio(times, "ours", "core"), "×", warm,
            note=note),
        Row("weighted / core's weighted", ratio(times, "ours weighted", "core weighted"), "×",
            weighted),
        Row("weighted / plain", ratio(times, "ours weighted", "ours"), "×", of_plain),
        Row("relative error, plain and weighted", max(errors), "", tolerance),
    ]  # fmt: skip
    print(to_json(rows + rows_of_cpu))


if __name__ == "__main__":
    main()
