"""The host inside ComfyUI: its folders, its devices, and its own ``comfy.sd.CLIP`` on our model.

Supports ComfyUI from December 2023 on. What a version lacks is detected by name or signature, never
by version number. Only public functions of ``comfy`` are called.
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
from .devices import accelerators, cpu_product_dtype, parse_device
from .interface import Clip, DevicePlacement, WeightChange, WeightsSource

Route = tuple[str, str, Callable[[dict[str, Any]], dict[str, Any]]]
"""Method, path, and handler: plain data in, plain data out."""

CPU = torch.device("cpu")


def _gpus() -> list[torch.device]:
    """List the devices that ComfyUI computes on, without the CPU."""
    first = model_management.get_torch_device()
    if first.type == "cpu":  # no GPU, or ComfyUI was started with --cpu
        return []
    if hasattr(model_management, "get_all_torch_devices"):
        found = list(model_management.get_all_torch_devices())
    else:
        found = [device for device in accelerators() if device.type == first.type]
    return found or [first]  # torch does not list DirectML's devices


def _holds_dora(tensors: Mapping[str, torch.Tensor]) -> bool:
    return any(name.endswith(".dora_scale") for name in tensors)


@dataclass(frozen=True)
class _Target:
    """What ``comfy.sd.CLIP`` is built from: two callables, and arguments for the first."""

    clip: Callable[..., Any]
    tokenizer: Callable[..., Any]
    params: dict[str, Any]


@dataclass(frozen=True)
class _Build:
    """Arguments to build a CLIP: first from a state dict, again from the file."""

    source: WeightsSource
    embedding_directory: Sequence[str] | None
    layer: str
    layer_idx: int | None
    model_options: Mapping[str, Any]

    def clip(self, state_dict: Mapping[str, torch.Tensor], *, disable_dynamic: bool = False) -> Any:
        from comfy import ops, sd

        from ..sd2.model.encode_cache import EncodeCache
        from ..sd2.model.encoder_setup import SETUP_KEY, EncoderSetup
        from ..sd2.sd2_clip import build_text_encoder
        from ..sd2.sd2_tokenizer import SD2Tokenizer
        from .comfyui_layers import layer_classes

        placement = self.source.placement
        load, offload = placement.load_device, placement.offload_device
        setup = EncoderSetup(
            placeholder_layers=self.source.placeholder_layers,
            placeholder_projection=self.source.placeholder_projection,
            product_dtype=placement.product_dtype or torch.float32,
            output_device=model_management.intermediate_device(),
            cache=EncodeCache(),
            check_files=self.source.check_files,
            source=self.source,
        )
        options = {
            "custom_operations": layer_classes(ops.manual_cast, setup.product_dtype),
            **self.model_options,
            SETUP_KEY: setup,
        }
        with torch.inference_mode(False):  # ordinary parameters, as the tensors are
            model = build_text_encoder(
                state_dict,
                device=offload,
                dtype=placement.dtype,
                model_options=options,
                layer=self.layer,
                layer_idx=self.layer_idx,
            )
        vars(model)["device"] = offload  # where ModelPatcher looks up the model's device

        def tokenizer(embedding_directory: Any = None, tokenizer_data: Any = None) -> SD2Tokenizer:
            made = SD2Tokenizer(embedding_directory=embedding_directory)
            made.clip_h.embedding_size = model.clip_h.config.hidden_size
            return made

        offered = {
            "model_options": {
                "load_device": load,
                "offload_device": offload,
                "initial_device": offload,
                "dtype": placement.dtype,
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
        # CLIP of 2023 and 2024 takes no devices and has selected its own. It moves nothing before
        # the first prompt.
        patcher.load_device, patcher.offload_device = load, offload
        if hasattr(patcher, "current_device"):
            patcher.current_device = offload
        return clip

    def patcher_from_file(self, *, disable_dynamic: bool = False) -> Any:
        """Build a patcher on weights of its own: ComfyUI puts a model on a second device so."""
        return self.clip(self.source.read(), disable_dynamic=disable_dynamic).patcher


class ComfyUIHost:
    """Runs our nodes inside ComfyUI."""

    def model_folders(self, kind: str) -> Sequence[Path]:
        """List the existing folders, each under the first of its kinds only.

        New ComfyUI returns the folders of "text_encoders" for "clip"; old ComfyUI has only "clip".
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

    def select_device(self, device: str, dtype: torch.dtype | None) -> DevicePlacement:
        """Follow ComfyUI's flags and free memory, unless the node names a device or dtype."""
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
                # --gpu-only stores models on the GPU: then on the requested one.
                offload = CPU if offload.type == "cpu" else load
            else:
                available = ", ".join(f"gpu:{i}" for i in range(len(gpus))) or "no GPU"
                notes.append(
                    f"device {device} does not exist (ComfyUI has {available}); using {load}."
                )
        asked = dtype
        if dtype is None:
            dtype = model_management.text_encoder_dtype(load)
        supports = getattr(model_management, "supports_cast", None)
        if supports is not None and not supports(load, dtype):
            name = str(dtype).removeprefix("torch.")
            notes.append(f"{load} cannot compute with {name} weights; using {offload}.")
            load = offload
        # With auto the values are those of ComfyUI's own encoder.
        products = cpu_product_dtype(dtype) if asked is not None and load.type == "cpu" else None
        return DevicePlacement(load, offload, dtype, products, notes=tuple(notes))

    def build_clip(
        self,
        state_dict: Mapping[str, torch.Tensor],
        *,
        source: WeightsSource,
        embedding_directory: Sequence[str] | None,
        layer: str,
        layer_idx: int | None,
        model_options: Mapping[str, Any],
    ) -> Clip:
        build = _Build(source, embedding_directory, layer, layer_idx, model_options)
        clip = build.clip(state_dict)
        if hasattr(clip.patcher, "cached_patcher_init"):
            clip.patcher.cached_patcher_init = (build.patcher_from_file, ())
        return clip  # type: ignore[no-any-return]

    def lora_patches(self, changes: Mapping[str, WeightChange]) -> Any:
        """Convert by ComfyUI's own LoRA reader, so that the result is the same as Load LoRA's."""
        from comfy.lora import load_lora

        tensors: dict[str, torch.Tensor] = {}
        for name, change in changes.items():
            tensors |= change.kohya_tensors(name)
        patches = load_lora(tensors, {name: name for name in changes})
        for patch in patches.values():
            # 2023's ("lora", (up, down, alpha, mid)) cannot hold DoRA's scale.
            is_lora = isinstance(patch, tuple) and patch[0] == "lora"
            if is_lora and len(patch[1]) < 5 and _holds_dora(tensors):
                raise OptionError(
                    "This LoRA is a DoRA, which this ComfyUI is too old to apply. Update ComfyUI, "
                    "or choose another LoRA."
                )
        return patches


async def _json_object(request: Any) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError) as error:  # of syntax, depth or length of numbers
        raise OptionError(f"The request's body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise OptionError("The request's body is not a JSON object.")
    return found


def register_routes(routes: Sequence[Route]) -> None:
    """Serve *routes* on ComfyUI's own server, if there is one."""
    # Not imported: a script that uses ComfyUI's modules only has no server.
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
                # In a thread: handlers read files and tokenize long texts.
                result = await asyncio.to_thread(handler, question)
            except SD2ClipError as error:
                result = {"error": str(error)}
            return web.json_response(result, status=400 if "error" in result else 200)

        server.routes.route(method, path)(answer)
