"""Fakes of ComfyUI's modules, as far as the host touches them; they move nothing."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import torch

CPU = torch.device("cpu")
GPU0, GPU1 = torch.device("cuda", 0), torch.device("cuda", 1)


class Patcher:
    """Remembers devices; moves nothing."""

    def __init__(self, model: Any, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        self.load_device = load_device
        self.offload_device = offload_device


class NewCLIP:
    """``comfy.sd.CLIP`` as it is today, as far as it touches its arguments."""

    def __init__(
        self,
        target: Any = None,
        embedding_directory: Any = None,
        no_init: bool = False,
        tokenizer_data: Any = None,
        parameters: int = 0,
        state_dict: Any = (),
        model_options: Any = None,
        disable_dynamic: bool = False,
    ) -> None:
        options = model_options or {}
        self.disable_dynamic = disable_dynamic
        params = target.params.copy()
        params["dtype"] = options["dtype"]
        params["device"] = options["initial_device"]
        params["model_options"] = options
        self.cond_stage_model = target.clip(**params)
        self.tokenizer = target.tokenizer(
            embedding_directory=embedding_directory, tokenizer_data=tokenizer_data
        )
        self.patcher = Patcher(
            self.cond_stage_model, options["load_device"], options["offload_device"]
        )
        self.patcher.cached_patcher_init = None


class OldCLIP:
    """``comfy.sd.CLIP`` of December 2023."""

    def __init__(
        self, target: Any = None, embedding_directory: Any = None, no_init: bool = False
    ) -> None:
        params = target.params.copy()
        params["device"], params["dtype"] = CPU, torch.float16
        self.cond_stage_model = target.clip(**params)
        self.tokenizer = target.tokenizer(embedding_directory=embedding_directory)
        self.patcher = Patcher(self.cond_stage_model, GPU0, CPU)
        self.patcher.current_device = CPU


class ManualCast:
    """Layers that cast nothing, so that weights must be fp32 to encode with."""

    class Linear(torch.nn.Linear):
        weight_function: ClassVar[list[Any]] = []

    LayerNorm = torch.nn.LayerNorm

    class Embedding(torch.nn.Embedding):
        def reset_parameters(self) -> None:
            """Initialise nothing, as ComfyUI's layers do."""


class OldManualCast:
    Linear = torch.nn.Linear
    LayerNorm = torch.nn.LayerNorm


class FakeComfy:
    """All modules of ComfyUI that the host touches; tests change them."""

    def __init__(self) -> None:
        self.folders = SimpleNamespace(
            folder_names_and_paths={},
            get_folder_paths=self._folder_paths,
            get_input_directory=lambda: "in",
            get_output_directory=lambda: "out",
        )
        self.management = SimpleNamespace(
            get_torch_device=lambda: GPU0,
            get_all_torch_devices=lambda: [GPU0, GPU1],
            text_encoder_device=lambda: GPU0,
            text_encoder_offload_device=lambda: CPU,
            text_encoder_dtype=lambda device: torch.float16,
            intermediate_device=lambda: CPU,
            supports_cast=lambda device, dtype: True,
            throw_exception_if_processing_interrupted=lambda: None,
            get_free_memory=lambda device: 1 << 40,
        )
        self.ops = SimpleNamespace(manual_cast=ManualCast)
        self.sd = SimpleNamespace(CLIP=NewCLIP)
        self.lora = SimpleNamespace(load_lora=lambda lora, to_load: {})

    def _folder_paths(self, kind: str) -> list[str]:
        paths: list[str] = self.folders.folder_names_and_paths[kind][0]
        return list(paths)

    def only_cpu(self) -> None:
        self.management.get_torch_device = lambda: CPU
        self.management.get_all_torch_devices = lambda: [CPU]
        self.management.text_encoder_device = lambda: CPU

    def modules(self) -> dict[str, Any]:
        """The modules by their names, as ``sys.modules`` has them."""
        package = ModuleType("comfy")
        modules = {
            "comfy.model_management": self.management,
            "comfy.ops": self.ops,
            "comfy.sd": self.sd,
            "comfy.lora": self.lora,
        }
        for name, module in modules.items():
            setattr(package, name.partition(".")[2], module)
        return {**modules, "comfy": package, "folder_paths": self.folders}
