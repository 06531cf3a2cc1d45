"""The host inside ComfyUI, against fakes of ComfyUI's modules: what is asked, set and moved.

The real ComfyUI is in ``tests/comfyui``; here are the decisions that need a GPU there.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from fake_comfyui import CPU, GPU0, GPU1, FakeComfy, ManualCast, NewCLIP, OldCLIP, OldManualCast
from sd2_clip import host as hosts
from sd2_clip.host.interface import DevicePlacement
from sd2_clip.sd2.errors import OptionError, SD2ClipError
from sd2_clip.sd2.lora.weight_adapters import Change, Difference, LoRA
from sd2_clip.sd2.model import ops as operations


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> FakeComfy:
    fake = FakeComfy()
    for name, module in fake.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


@pytest.fixture
def module(comfy: FakeComfy) -> Iterator[Any]:
    yield importlib.import_module("sd2_clip.host.comfyui")
    for name in ("comfyui", "comfyui_layers"):  # they have imported the fakes
        sys.modules.pop(f"sd2_clip.host.{name}", None)


@pytest.fixture
def host(module: Any) -> Any:
    return module.ComfyUIHost()


def build(host: Any, placement: DevicePlacement | None = None, **changes: Any) -> Any:
    arguments = {
        "source": tiny.Source(placement or DevicePlacement(GPU0, CPU, torch.float16)),
        "embedding_directory": [],
        "layer": "penultimate",
        "layer_idx": None,
        "model_options": tiny.MODEL_OPTIONS,
        **changes,
    }
    return host.build_clip(arguments.pop("state_dict", tiny.state_dict()), **arguments)


# Which host


def test_comfyui_is_the_host_where_its_modules_are_loaded(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_host", None)
    assert isinstance(hosts.current(), module.ComfyUIHost)


def test_without_comfyuis_modules_the_host_is_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_host", None)
    assert type(hosts.current()).__name__ == "StandaloneHost"


# Devices


def test_devices_are_named_for_each_gpu(host: Any) -> None:
    assert host.devices() == ["auto", "cpu", "gpu:0", "gpu:1"]


def test_no_gpu_is_offered_where_comfyui_runs_on_the_cpu(host: Any, comfy: FakeComfy) -> None:
    comfy.only_cpu()
    assert host.devices() == ["auto", "cpu"]


def test_older_comfyui_is_asked_for_its_kind_of_device_only(
    host: Any, module: Any, comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    del comfy.management.get_all_torch_devices
    monkeypatch.setattr(module, "accelerators", lambda: [GPU0, GPU1, torch.device("mps")])
    assert host.devices() == ["auto", "cpu", "gpu:0", "gpu:1"]


def test_a_device_that_torch_does_not_list_is_the_one_gpu(
    host: Any, module: Any, comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    del comfy.management.get_all_torch_devices
    comfy.management.get_torch_device = lambda: torch.device("privateuseone", 0)  # DirectML
    monkeypatch.setattr(module, "accelerators", list)
    assert host.devices() == ["auto", "cpu", "gpu:0"]


LOW_VRAM = {"text_encoder_device": lambda: CPU}
GPU_ONLY = {"text_encoder_offload_device": lambda: GPU0}
FP8 = {"text_encoder_dtype": lambda device: torch.float8_e4m3fn}

PLACES: dict[str, tuple[dict[str, Any], str, torch.dtype | None, tuple[Any, ...]]] = {
    "auto": ({}, "auto", None, (GPU0, CPU, torch.float16)),
    "auto with little memory": (LOW_VRAM, "auto", None, (CPU, CPU, torch.float16)),
    "auto, everything on the GPU": (GPU_ONLY, "auto", None, (GPU0, GPU0, torch.float16)),
    "auto, flag for fp8": (FP8, "auto", None, (GPU0, CPU, torch.float8_e4m3fn)),
    "cpu": ({}, "cpu", None, (CPU, CPU, torch.float16)),
    "cpu wins over the flag": (GPU_ONLY, "cpu", None, (CPU, CPU, torch.float16)),
    "gpu:1": ({}, "gpu:1", None, (GPU1, CPU, torch.float16)),
    "gpu:1 wins over little memory": (LOW_VRAM, "gpu:1", None, (GPU1, CPU, torch.float16)),
    "gpu:1 stays on it with the flag": (GPU_ONLY, "gpu:1", None, (GPU1, GPU1, torch.float16)),
    "dtype wins over the flag": (FP8, "auto", torch.float32, (GPU0, CPU, torch.float32)),
}


@pytest.mark.parametrize(("flags", "device", "dtype", "expected"), PLACES.values(), ids=PLACES)
def test_select_device(
    host: Any,
    comfy: FakeComfy,
    flags: dict[str, Any],
    device: str,
    dtype: torch.dtype | None,
    expected: tuple[Any, ...],
) -> None:
    vars(comfy.management).update(flags)
    found = host.select_device(device, dtype)
    assert (found.load_device, found.offload_device, found.dtype) == expected
    assert found.notes == ()


def test_an_absent_gpu_falls_back_with_a_note(host: Any) -> None:
    found = host.select_device("gpu:5", None)
    assert found.load_device == GPU0
    assert found.notes == ("device gpu:5 does not exist (ComfyUI has gpu:0, gpu:1); using cuda:0.",)


def test_a_gpu_where_comfyui_has_none_falls_back_to_the_cpu(host: Any, comfy: FakeComfy) -> None:
    comfy.only_cpu()
    found = host.select_device("gpu:0", None)
    assert found.load_device == CPU
    assert "no GPU" in found.notes[0]


def test_a_dtype_that_the_device_cannot_cast_goes_to_the_other_device(
    host: Any, comfy: FakeComfy
) -> None:
    comfy.management.supports_cast = lambda device, dtype: device.type == "cpu"
    found = host.select_device("auto", torch.bfloat16)
    assert found.load_device == CPU
    assert "cannot compute with bfloat16" in found.notes[0]


def test_2023_knew_no_casts_to_ask_for(host: Any, comfy: FakeComfy) -> None:
    del comfy.management.supports_cast
    assert host.select_device("auto", torch.bfloat16).load_device == GPU0


def test_the_dtype_is_asked_for_the_device_that_was_chosen(host: Any, comfy: FakeComfy) -> None:
    asked = []
    comfy.management.text_encoder_dtype = lambda device: asked.append(device) or torch.float16
    host.select_device("gpu:1", None)
    assert asked == [GPU1]


# The CLIP


@pytest.mark.parametrize("clip_class", [NewCLIP, OldCLIP])
def test_devices_of_the_patcher_are_the_placements(
    host: Any, comfy: FakeComfy, clip_class: type
) -> None:
    comfy.sd.CLIP = clip_class
    clip = build(host, DevicePlacement(GPU1, CPU, torch.float16))
    assert (clip.patcher.load_device, clip.patcher.offload_device) == (GPU1, CPU)
    assert clip.cond_stage_model.device == CPU


@pytest.mark.parametrize("clip_class", [NewCLIP, OldCLIP])
def test_weights_have_the_placements_dtype_whatever_core_would_choose(
    host: Any, comfy: FakeComfy, clip_class: type
) -> None:
    comfy.sd.CLIP = clip_class
    clip = build(host, DevicePlacement(CPU, CPU, torch.bfloat16))
    model = clip.cond_stage_model
    assert model.dtypes == {torch.bfloat16}
    assert model.clip_h.transformer.text_projection.weight.dtype == torch.bfloat16


def test_tensors_are_taken_over_not_copied(host: Any) -> None:
    state_dict = tiny.state_dict()
    own = build(host, state_dict=state_dict).cond_stage_model.state_dict()
    for name, tensor in state_dict.items():
        if name != "logit_scale":
            assert own[f"clip_h.transformer.{name}"].data_ptr() == tensor.data_ptr()


def test_parameters_made_in_inference_mode_can_be_changed_outside_of_it(host: Any) -> None:
    state_dict = tiny.state_dict()
    with torch.inference_mode():
        clip = build(host, state_dict=state_dict)
    for parameter in clip.cond_stage_model.parameters():
        parameter.mul_(1.0)


def test_layers_are_comfyuis(host: Any) -> None:
    table = build(host).cond_stage_model.clip_h.transformer.get_input_embeddings()
    assert isinstance(table, ManualCast.Embedding)


def test_2023_had_no_table_of_its_own(host: Any, comfy: FakeComfy) -> None:
    comfy.ops.manual_cast = OldManualCast
    table = build(host).cond_stage_model.clip_h.transformer.get_input_embeddings()
    assert isinstance(table, torch.nn.Embedding)


def test_layer_classes_may_be_given(host: Any) -> None:
    options = {**tiny.MODEL_OPTIONS, "custom_operations": operations}
    table = build(host, model_options=options).cond_stage_model.clip_h.transformer
    assert type(table.get_input_embeddings()) is operations.Embedding


def test_results_go_where_comfyui_keeps_what_is_between_nodes(host: Any, comfy: FakeComfy) -> None:
    comfy.management.intermediate_device = lambda: torch.device("meta")
    clip = build(host, DevicePlacement(CPU, CPU, torch.float32))
    cond, pooled = clip.cond_stage_model.encode_token_weights(
        clip.tokenizer.tokenize_with_weights("")
    )
    assert cond.device.type == pooled.device.type == "meta"


def test_the_tokenizer_takes_vectors_of_the_encoders_width(host: Any) -> None:
    clip = build(host, embedding_directory=["somewhere"])
    assert clip.tokenizer.clip_h.embedding_size == tiny.CONFIG["hidden_size"]
    assert clip.tokenizer.clip_h.embedding_directory == ["somewhere"]


def test_a_second_patcher_is_built_from_the_file(host: Any) -> None:
    clip = build(host)
    model = clip.cond_stage_model
    factory, arguments = clip.patcher.cached_patcher_init
    twin = factory(*arguments, disable_dynamic=True)
    assert twin.model is not model
    own = twin.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(own[name], tensor)
        if "transformer" in name:
            assert own[name].data_ptr() != tensor.data_ptr()


def test_the_encoder_and_a_second_one_get_the_facts_of_their_source(host: Any) -> None:
    source = tiny.Source(DevicePlacement(CPU, CPU, torch.float32), frozenset({3}), True)
    clip = build(host, source=source)
    factory, arguments = clip.patcher.cached_patcher_init
    for model in (clip.cond_stage_model, factory(*arguments).model):
        assert model.source is source
        assert model.clip_h.setup.placeholder_layers == {3}
        assert model.clip_h.setup.placeholder_projection


def test_where_no_second_patcher_is_asked_for_none_is_offered(host: Any, comfy: FakeComfy) -> None:
    comfy.sd.CLIP = OldCLIP
    assert not hasattr(build(host).patcher, "cached_patcher_init")


# What is imported

ROOT = Path(__file__).parents[2]

CHILD = """
import sys, types
sys.path[:0] = [SUPPORT]
import torch

module = torch.nn.modules.module
public = types.ModuleType(module.__name__)
vars(public).update({n: v for n, v in vars(module).items() if not n.startswith("_")})
sys.modules[module.__name__] = torch.nn.modules.module = public
torch.ops.mkldnn = types.SimpleNamespace()
del torch.autograd.forward_ad._current_level

from fake_comfyui import FakeComfy
comfy = FakeComfy()
comfy.only_cpu()
sys.modules.update(comfy.modules())
import sd2_clip
clip = sd2_clip.load_clip(FILE, dtype="fp32", model_options={"clip_h_model_config": CONFIG})
assert type(sd2_clip.host.current()).__name__ == "ComfyUIHost"
tokens = clip.tokenizer.tokenize_with_weights("a (cat:1.2)")
cond, pooled = clip.cond_stage_model.encode_token_weights(tokens)
assert cond.shape == (1, 77, 32) and cond.isfinite().all() and pooled.isfinite().all()
print(*(name for name in sys.modules if name.startswith("sd2_clip.")))
"""


@pytest.mark.slow
def test_inside_comfyui_private_names_of_torch_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    values = {
        "SUPPORT": str(ROOT / "tests" / "support"),
        "FILE": str(tiny.GOLDEN / "tiny_text_encoder.safetensors"),
        "CONFIG": tiny.CONFIG,
    }
    program = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + CHILD
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "sd2_clip.host.comfyui_layers" in imported


# LoRA


def change(*, dora: bool) -> dict[str, Change]:
    scale = torch.ones(1, 2) if dora else None
    return {"a.weight": Change(LoRA(torch.ones(2, 1), torch.ones(1, 2)), 1.0, scale)}


def test_lora_goes_through_comfyuis_own_reader(host: Any, comfy: FakeComfy) -> None:
    seen = {}

    def load_lora(lora: dict[str, Any], to_load: dict[str, str]) -> dict[str, Any]:
        seen.update(lora)
        return {to_load["a.weight"]: "a patch"}

    comfy.lora.load_lora = load_lora
    assert host.lora_patches(change(dora=True)) == {"a.weight": "a patch"}
    assert sorted(seen) == ["a.weight.alpha", "a.weight.dora_scale", "a.weight.lora_down.weight",
                            "a.weight.lora_up.weight"]  # fmt: skip


def test_a_dora_may_change_biases_too(host: Any, comfy: FakeComfy) -> None:
    patches = {"a.weight": "an adapter", "a.bias": ("diff", (torch.ones(2),))}
    comfy.lora.load_lora = lambda lora, to_load: patches
    changes = change(dora=True) | {"a.bias": Change(Difference(torch.ones(2)))}
    assert host.lora_patches(changes) == patches


@pytest.mark.parametrize("dora", [True, False])
def test_2023s_reader_is_not_trusted_with_dora(host: Any, comfy: FakeComfy, dora: bool) -> None:
    comfy.lora.load_lora = lambda lora, to_load: {"a.weight": ("lora", (1, 2, 3, None))}
    if dora:
        with pytest.raises(OptionError, match="too old"):
            host.lora_patches(change(dora=True))
    else:
        assert host.lora_patches(change(dora=False))


# Folders


def test_a_folder_of_two_kinds_is_listed_once(host: Any, comfy: FakeComfy, tmp_path: Any) -> None:
    for name in ("text_encoders", "clip"):
        (tmp_path / name).mkdir()
    both = [str(tmp_path / "text_encoders"), str(tmp_path / "clip")]
    comfy.folders.folder_names_and_paths = {"text_encoders": (both, set())}
    comfy.folders.get_folder_paths = lambda kind: list(both)  # "clip" is another name for it
    assert [p.name for p in host.model_folders("text_encoders")] == ["text_encoders", "clip"]
    assert host.model_folders("clip") == []


def test_2023_had_clip_and_no_text_encoders(host: Any, comfy: FakeComfy, tmp_path: Any) -> None:
    comfy.folders.folder_names_and_paths = {"clip": ([str(tmp_path)], set())}
    assert host.model_folders("clip") == [tmp_path]
    assert host.model_folders("text_encoders") == []


def test_a_folder_that_is_not_there_is_left_out(host: Any, comfy: FakeComfy, tmp_path: Any) -> None:
    comfy.folders.folder_names_and_paths = {"loras": ([str(tmp_path / "none")], set())}
    assert host.model_folders("loras") == []


# Routes


class FakeServer:
    """aiohttp's table of routes, and PromptServer with it."""

    def __init__(self) -> None:
        self.served: dict[tuple[str, str], Callable[[Any], Any]] = {}
        self.routes = self
        self.PromptServer = SimpleNamespace(instance=self)
        self.web = SimpleNamespace(
            json_response=lambda body, status=200: (status, json.loads(json.dumps(body)))
        )

    def route(self, method: str, path: str) -> Callable[[Any], None]:
        return lambda answer: self.served.update({(method, path): answer})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setitem(sys.modules, "server", fake)  # type: ignore[arg-type]
    return fake


def ask(server: FakeServer, method: str, path: str, **given: Any) -> Any:
    async def body() -> Any:
        return json.loads(given["body"])

    request = SimpleNamespace(method=method, query=given.get("query"), json=body)
    return asyncio.run(server.served[method, path](request))


def test_query_and_body_reach_the_handler(module: Any, server: FakeServer) -> None:
    module.register_routes([("GET", "/a", lambda q: {"q": q}), ("POST", "/b", lambda q: {"p": q})])
    assert ask(server, "GET", "/a", query={"x": "1"}) == (200, {"q": {"x": "1"}})
    assert ask(server, "POST", "/b", body='{"y": 2}') == (200, {"p": {"y": 2}})


def test_the_handler_does_not_hold_up_the_servers_loop(module: Any, server: FakeServer) -> None:
    module.register_routes([("GET", "/a", lambda q: {"thread": threading.get_ident()})])
    assert ask(server, "GET", "/a", query={})[1]["thread"] != threading.get_ident()


def refuse(question: dict[str, Any]) -> dict[str, Any]:
    raise SD2ClipError("no such file")


@pytest.mark.parametrize(
    ("handler", "body", "message"),
    [
        (refuse, "{}", "no such file"),
        (lambda q: {"error": "said so"}, "{}", "said so"),
        (lambda q: {}, "[1]", "not a JSON object"),
        (lambda q: {}, "{", "Expecting property name"),
        (lambda q: {}, "[" * 100_000, "not JSON"),
        (lambda q: {}, "9" * 5000, "JSON"),
    ],
    ids=["error raised", "error returned", "no object", "no JSON", "too deep", "endless number"],
)
def test_an_error_is_400_with_its_message(
    module: Any, server: FakeServer, handler: Any, body: str, message: str
) -> None:
    module.register_routes([("POST", "/b", handler)])
    status, answer = ask(server, "POST", "/b", body=body)
    assert status == 400
    assert message in answer["error"]


def test_without_a_server_nothing_is_registered(module: Any) -> None:
    assert "server" not in sys.modules
    module.register_routes([("GET", "/a", lambda q: {})])
