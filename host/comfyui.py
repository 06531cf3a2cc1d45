"""Our nodes inside ComfyUI: its folders, its devices, and its own ``comfy.sd.CLIP`` on our model.

ComfyUI of December 2023 and today's are served alike: what one of them lacks is looked for by name
or in a signature, never by a version number. Only public functions of ``comfy`` are called.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy import model_management

from ..sd2.errors import OptionError, SD2ClipError
from .devices import accelerators, parse_device
from .interface import Clip, Placement, WeightChange

Route = tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]]]
"""Method, path, and what answers: plain data in, plain data out."""

CPU = torch.device("cpu")


def _gpus() -> list[torch.device]:
    """The devices that ComfyUI would compute on, but for the CPU."""
    first = model_management.get_torch_device()
    if first.type == "cpu":  # no GPU, or ComfyUI was started with --cpu
        return []
    if hasattr(model_management, "get_all_torch_devices"):
        found = list(model_management.get_all_torch_devices())
    else:
        found = [device for device in accelerators() if device.type == first.type]
    return found or [first]  # DirectML is none of torch's own


def _holds_dora(tensors: Mapping[str, torch.Tensor]) -> bool:
    return any(name.endswith(".dora_scale") for name in tensors)


def _layer_classes() -> Any:
    """ComfyUI's layers that cast their weights, and let its memory management move them."""
    from comfy import ops

    if hasattr(ops.manual_cast, "Embedding"):
        return ops.manual_cast
    # 2023: tables were plain torch there too.
    return type("manual_cast", (ops.manual_cast,), {"Embedding": torch.nn.Embedding})


@dataclass(frozen=True)
class _Target:
    """What ``comfy.sd.CLIP`` builds itself from: two callables, and arguments for the first."""

    clip: Callable[..., Any]
    tokenizer: Callable[..., Any]
    params: dict[str, Any]


@dataclass(frozen=True)
class _Build:
    """How to build a CLIP, once from tensors at hand and again from the file."""

    placement: Placement
    embedding_directory: Sequence[str] | None
    layer: str
    layer_idx: int | None
    model_options: Mapping[str, Any]

    def clip(self, state_dict: Mapping[str, torch.Tensor], *, disable_dynamic: bool = False) -> Any:
        from comfy import sd

        from ..sd2.sd2_clip import build_text_encoder
        from ..sd2.sd2_tokenizer import SD2Tokenizer

        load, offload = self.placement.load_device, self.placement.offload_device
        with torch.inference_mode(False):  # as the tensors were read: for ordinary parameters
            model = build_text_encoder(
                state_dict,
                device=offload,
                dtype=self.placement.dtype,
                model_options={"custom_operations": _layer_classes(), **self.model_options},
                layer=self.layer,
                layer_idx=self.layer_idx,
            )
        model.clip_h.output_device = model_management.intermediate_device()
        vars(model)["device"] = offload  # ModelPatcher's note of where the model is

        def tokenizer(embedding_directory: Any = None, tokenizer_data: Any = None) -> SD2Tokenizer:
            made = SD2Tokenizer(embedding_directory=embedding_directory)
            made.clip_h.embedding_size = model.clip_h.config.hidden_size
            return made

        offered = {
            "model_options": {
                "load_device": load,
                "offload_device": offload,
                "initial_device": offload,
                "dtype": self.placement.dtype,
            },
            "disable_dynamic": disable_dynamic,
        }
        accepted = inspect.signature(sd.CLIP.__init__).parameters
        clip = sd.CLIP(
            _Target(clip=lambda **_: model, tokenizer=tokenizer, params={}),
            embedding_directory=self.embedding_directory,
            **{name: value for name, value in offered.items() if name in accepted},
        )
        patcher = clip.patcher
        # Where CLIP takes no devices (2023 and 2024) it has chosen its own. Nothing moves before
        # the first prompt, so it is not too late.
        patcher.load_device, patcher.offload_device = load, offload
        if hasattr(patcher, "current_device"):
            patcher.current_device = offload
        return clip

    def patcher_from_file(self, model: Any, *, disable_dynamic: bool = False) -> Any:
        """A patcher on weights of its own: how ComfyUI puts a model on a second device."""
        twin = self.clip(model.source.read(), disable_dynamic=disable_dynamic)
        twin.cond_stage_model.source = model.source
        twin.cond_stage_model.clip_h.identity_layers = model.clip_h.identity_layers
        return twin.patcher


class ComfyUIHost:
    """Runs our nodes inside ComfyUI."""

    def model_folders(self, kind: str) -> Sequence[Path]:
        """Existing folders; each is listed under the first of its kinds only.

        Newer ComfyUI answers "clip" with the folders of "text_encoders"; older knows no other.
        """
        known = folder_paths.folder_names_and_paths
        names = folder_paths.get_folder_paths(kind) if kind in known or kind == "clip" else []
        if kind == "clip" and "text_encoders" in known:
            elsewhere = set(folder_paths.get_folder_paths("text_encoders"))
            names = [name for name in names if name not in elsewhere]
        return [folder for folder in map(Path, dict.fromkeys(names)) if folder.is_dir()]

    def input_directory(self) -> Path:
        return Path(folder_paths.get_input_directory())

    def output_directory(self) -> Path:
        return Path(folder_paths.get_output_directory())

    def embeds_workflows(self) -> bool:
        from comfy.cli_args import args

        return not getattr(args, "disable_metadata", False)

    def devices(self) -> Sequence[str]:
        return ["auto", "cpu", *(f"gpu:{index}" for index in range(len(_gpus())))]

    def place(self, device: str, dtype: torch.dtype | None) -> Placement:
        """Auto follows ComfyUI's flags and free memory; a node's own choice wins over both."""
        load = model_management.text_encoder_device()
        offload = model_management.text_encoder_offload_device()
        notes: list[str] = []
        if device != "auto":
            gpus = _gpus()
            number = parse_device(device)
            if number is None:
                load = offload = CPU
            elif number < len(gpus):
                load = gpus[number]
                # --gpu-only keeps models on the GPU: then on the one that was asked for.
                offload = CPU if offload.type == "cpu" else load
            else:
                there = ", ".join(f"gpu:{i}" for i in range(len(gpus))) or "no GPU"
                notes.append(f"device {device} is not there (ComfyUI has {there}); using {load}.")
        if dtype is None:
            dtype = model_management.text_encoder_dtype(load)
        supports = getattr(model_management, "supports_cast", None)
        if supports is not None and not supports(load, dtype):
            name = str(dtype).removeprefix("torch.")
            notes.append(f"{load} cannot compute with {name} weights; using {offload}.")
            load = offload
        return Placement(load, offload, dtype, tuple(notes))

    def build_clip(
        self,
        state_dict: Mapping[str, torch.Tensor],
        *,
        placement: Placement,
        embedding_directory: Sequence[str] | None,
        layer: str,
        layer_idx: int | None,
        model_options: Mapping[str, Any],
    ) -> Clip:
        build = _Build(placement, embedding_directory, layer, layer_idx, model_options)
        clip = build.clip(state_dict)
        if hasattr(clip.patcher, "cached_patcher_init"):
            model = clip.cond_stage_model
            clip.patcher.cached_patcher_init = (build.patcher_from_file, (model,))
        return clip  # type: ignore[no-any-return]

    def lora_patches(self, changes: Mapping[str, WeightChange]) -> Any:
        """Made by ComfyUI's own LoRA reader, so that the result is Load LoRA's."""
        from comfy.lora import load_lora

        tensors: dict[str, torch.Tensor] = {}
        for name, change in changes.items():
            tensors |= change.kohya_tensors(name)
        patches = load_lora(tensors, {name: name for name in changes})
        for patch in patches.values():
            # 2023's ("lora", (up, down, alpha, mid)) had no place for DoRA's scale.
            if isinstance(patch, tuple) and len(patch[1]) < 5 and _holds_dora(tensors):
                raise OptionError("This LoRA is a DoRA, which this ComfyUI is too old to apply.")
        return patches


async def _json_object(request: Any) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError) as error:  # not only of syntax: of depth and digits too
        raise OptionError(f"The body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise OptionError("A JSON object was expected.")
    return found


def register_routes(routes: Sequence[Route]) -> None:
    """Serve *routes* on ComfyUI's own server, if there is one."""
    # Not imported: a script that uses ComfyUI's modules alone has no server to start.
    module = sys.modules.get("server")
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if module is None or server is None:
        return
    web = module.web
    for method, path, handler in routes:

        async def answer(request: Any, handler: Any = handler) -> Any:
            try:
                if request.method == "GET":
                    question = dict(request.query)
                else:
                    question = await _json_object(request)
                # Not on the server's loop: files are read there, and long texts tokenized.
                result = await asyncio.to_thread(handler, question)
            except SD2ClipError as error:
                result = {"error": str(error)}
            return web.json_response(result, status=400 if "error" in result else 200)

        server.routes.route(method, path)(answer)
