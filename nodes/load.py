"""The node that loads a CLIP."""

from __future__ import annotations

import re
from typing import Any

from .. import host
from ..host.model_folders import CLIP_KINDS, list_models
from ..sd2.errors import SD2ClipError
from .clip_files import inspect_file, resolve_clip

LAYERS = ["penultimate", "last", "hidden"]
DTYPES = ["auto", "fp32", "fp16", "bf16"]
NOTE, ABSENT = "Note:", "Not in file:"
"""Starts of the lines of ``info`` that the node also shows after a run: notes, and what the file
lacks where another layer than SD2's may need it."""


class DeviceNames(list[str]):
    """The devices to choose from; GPUs of other machines count as members too.

    ComfyUI checks a value with ``in``. So a workflow from another machine runs, and only a wrong
    file is an error of ``clip_name``: ComfyUI blames one answer of ``VALIDATE_INPUTS`` on all of
    its arguments.
    """

    def __contains__(self, name: object) -> bool:
        is_gpu = isinstance(name, str) and re.fullmatch(r"gpu:\d+", name) is not None
        return is_gpu or super().__contains__(name)


class LoadSD2CLIP:
    """Loads the text encoder of Stable Diffusion 2.x from any file that holds one."""

    TITLE = "Load SD2 CLIP"
    CATEGORY = "SD2"
    DESCRIPTION = (
        "Loads the Stable Diffusion 2.x text encoder (OpenCLIP ViT-H/14) from a checkpoint, a "
        "stand-alone file or a diffusers folder, whatever its layout."
    )
    SEARCH_ALIASES = ["clip loader", "sd2", "sd 2.1", "open clip", "text encoder", "ViT-H"]
    RETURN_TYPES = ("CLIP", "STRING")
    RETURN_NAMES = ("CLIP", "info")
    OUTPUT_TOOLTIPS = (
        "The text encoder, for Encode SD2 Text, CLIP Text Encode and any node that takes a CLIP.",
        "What the file holds and how it was loaded, as text.",
    )
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "clip_name": (
                    list_models(host.current(), CLIP_KINDS),
                    {
                        "tooltip": "A checkpoint, a text encoder file or a diffusers folder, from "
                        "models/text_encoders, clip, checkpoints or diffusers."
                    },
                )
            },
            "optional": {
                "layer": (
                    LAYERS,
                    {
                        "default": "penultimate",
                        "tooltip": "Which layer's output conditions the model. SD2 was trained "
                        "with the penultimate one.",
                    },
                ),
                "layer_idx": (
                    "INT",
                    {
                        "default": -2,
                        "min": -24,
                        "max": -1,
                        "tooltip": "Used by layer 'hidden' only: -1 is the last of 24 layers, "
                        "-2 the penultimate.",
                    },
                ),
                "device": (
                    DeviceNames(host.current().devices()),
                    {
                        "default": "auto",
                        "tooltip": "Where the text encoder computes. A device that is not there "
                        "falls back to auto, and info says so.",
                    },
                ),
                "dtype": (
                    DTYPES,
                    {
                        "default": "auto",
                        "tooltip": "How the weights are kept in memory. auto lets ComfyUI decide; "
                        "without ComfyUI it is fp16 on a GPU and fp32 on a CPU. bf16 on a CPU with "
                        "AVX512_BF16 or AMX is the fastest, with an error of about 1 %; on other "
                        "CPUs it only saves memory, and info says so.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, clip_name: str | None) -> bool | str:
        # An input named here is not checked by the host. So any path separators are accepted.
        # A wrong file is refused here already: the editor then ends the error at the next choice,
        # but keeps one of a run until another run.
        if clip_name is None:
            return True  # linked: known when the node runs
        try:
            found = inspect_file(resolve_clip(clip_name))
        except (SD2ClipError, OSError) as error:
            return str(error)
        return str(found["error"]) if "error" in found else True

    @classmethod
    def IS_CHANGED(cls, clip_name: str | None, **_others: Any) -> Any:
        # A file that was replaced under its name is loaded again.
        from ..sd2.files.checkpoint import fingerprint

        if clip_name is None:
            return float("nan")
        return fingerprint(resolve_clip(clip_name))

    def load(
        self,
        clip_name: str,
        layer: str = "penultimate",
        layer_idx: int = -2,
        device: str = "auto",
        dtype: str = "auto",
    ) -> dict[str, Any]:
        from ..clip.load_clip import load_clip

        clip = load_clip(
            resolve_clip(clip_name),
            device=device,
            dtype=dtype,
            layer=layer,
            layer_idx=layer_idx if layer == "hidden" else None,
        )
        info = clip.cond_stage_model.source.describe()
        shown = NOTE if layer == "penultimate" else (NOTE, ABSENT)
        unusual = [" ".join(line.split()) for line in info.splitlines() if line.startswith(shown)]
        return {"ui": {"text": unusual}, "result": (clip, info)}
