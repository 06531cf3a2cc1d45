"""Compares our encoder with ComfyUI's in one process.

    COMFYUI_DIR=… PYTHON_OF_COMFYUI -m benchmarks.comfyui CHECKPOINT [--rounds N]

Both get the same tokens and weights and compute hidden states and pooled vector. ComfyUI stores
weights as fp16 on the CPU by default, so fp16 is measured too.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from .encoding import settle
from .measure import Row, absolute, paired, ratio, to_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    sys.argv = [sys.argv[0], "--cpu"]  # ComfyUI reads it when it is imported
    from sd2_clip.clip.load_clip import load_clip
    from sd2_clip.host import use
    from sd2_clip.host.standalone import StandaloneHost

    use(StandaloneHost())
    clip = load_clip(arguments.checkpoint, device="cpu", dtype="fp32")
    sys.path.insert(0, os.environ["COMFYUI_DIR"])
    from comfy import options

    options.enable_args_parsing()
    from comfy.text_encoders.sd2_clip import SD2ClipModel
    from comfyui_version import __version__

    weights = {
        name.removeprefix("clip_h.transformer."): tensor
        for name, tensor in clip.cond_stage_model.state_dict().items()
        if ".transformer." in name
    }
    theirs = {}
    for name, dtype in (("ComfyUI fp32", torch.float32), ("ComfyUI fp16", torch.float16)):
        theirs[name] = SD2ClipModel(device="cpu", dtype=dtype)
        theirs[name].load_sd(dict(weights))
    chunk = [49406, *range(300, 340), 49407] + [0] * 35
    plain = {"h": [[(token, 1.0) for token in chunk]]}
    weighted = {"h": [[(token, 1.2 if 3 < i < 9 else 1.0) for i, token in enumerate(chunk)]]}
    encoder = clip.cond_stage_model
    settle(clip)
    encoder.clip_h.setup = replace(encoder.clip_h.setup, cache=None)

    def ours(tokens: object) -> object:
        return encoder.encode_token_weights(tokens)

    with torch.inference_mode():
        for tokens in (plain, weighted):
            expected = theirs["ComfyUI fp32"].encode_token_weights(tokens)
            torch.testing.assert_close(ours(tokens), tuple(expected[:2]), atol=1e-4, rtol=0)
        works: dict[str, Callable[[], object]] = {"ours": lambda: ours(plain)}
        for name, model in theirs.items():
            works[name] = lambda model=model: model.encode_token_weights(plain)  # type: ignore[misc]
        works["ComfyUI weighted"] = lambda: theirs["ComfyUI fp32"].encode_token_weights(weighted)
        times = paired(works, arguments.rounds)
    note = f"ComfyUI {__version__}, torch {torch.__version__}: {absolute(times)}"
    rows = [
        Row("one prompt with pooled / ComfyUI as it keeps weights, fp16",
            ratio(times, "ours", "ComfyUI fp16"), "×", 0.5, note=note),
        Row("the same / ComfyUI made to keep fp32", ratio(times, "ours", "ComfyUI fp32"), "×"),
        Row("plain prompt / ComfyUI's weighted prompt",
            ratio(times, "ours", "ComfyUI weighted"), "×"),
    ]  # fmt: skip
    print(to_json(rows))


if __name__ == "__main__":
    main()
