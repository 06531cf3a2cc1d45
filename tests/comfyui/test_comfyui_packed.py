"""In a real ComfyUI's modules, packed weights and cached results equal ComfyUI's own encoder.

All in one process of its own, so that the patcher can be driven as ComfyUI drives it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from comfyui_models import SMALL_CONFIG

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
sys.argv = ["main.py", "--cpu"]
sys.path[:0] = [COMFYUI, SUPPORT, PARENT]
import torch
from comfy import options
options.enable_args_parsing()
import folder_paths
from comfy import model_management, ops
from safetensors.torch import save_file
import layouts
from sd2_clip import host
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.model import onednn

weights = layouts.canonical_encoder(CONFIG)
save_file({name: t.half() if t.dim() else t for name, t in weights.items()}, FILE)
onednn.PACK_AFTER = 2
MODEL = {"clip_h_model_config": CONFIG}
packs = onednn.reorder_weight() is not None


def load(**changes):
    return load_clip(FILE, device="cpu", dtype="fp16", model_options={**MODEL, **changes})


def linears(clip):
    return [m for m in clip.cond_stage_model.modules() if isinstance(m, torch.nn.Linear)]


def packed(clip):
    return sum(isinstance(onednn._packed.get(m._parameters["weight"]), onednn._Packed)
               for m in linears(clip))


number = 0


def tokens(weight=1.0):
    global number
    number += 1
    chunk = [49406, *range(300 + number, 340 + number), 49407] + [0] * 35
    return {"h": [[(token, weight if 2 < i < 9 else 1.0) for i, token in enumerate(chunk)]]}


def same(clip, text):
    a = clip.encode_from_tokens(text, return_pooled=True)
    b = plain_of(clip).encode_from_tokens(text, return_pooled=True)
    for one, other in zip(a, b):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
    return a[0]


def plain_of(clip):
    # ComfyUI's own layers, with the same patches.
    twin = plain.clone()
    twin.patcher.patches = {k: list(v) for k, v in clip.patcher.patches.items()}
    if hasattr(clip.patcher, "patches_uuid"):
        twin.patcher.patches_uuid = clip.patcher.patches_uuid
    twin.layer_idx = clip.layer_idx
    return twin


with torch.inference_mode():
    ours = load()
    assert type(host.current()).__name__ == "ComfyUIHost"
    table = {} if hasattr(ops.manual_cast, "Embedding") else {"Embedding": torch.nn.Embedding}
    plain = load(custom_operations=type("own", (ops.manual_cast,), table))
    assert all(type(m).__module__ == "comfy.ops" for m in linears(plain))
    assert all(isinstance(m, ops.manual_cast.Linear) for m in linears(ours))

    for weight in (1.0, 1.2, 1.0, 0.8):
        same(ours, tokens(weight))
    assert packed(ours) > 100 if packs else not packed(ours)
    assert packed(plain) == 0
    size = model_management.module_size(ours.cond_stage_model)
    assert size == model_management.module_size(plain.cond_stage_model)
    print("plain and weighted")

    name = "clip_h.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    norm = "clip_h.transformer.text_model.encoder.layers.1.layer_norm1.weight"
    change = {k: (torch.full(ours.get_sd()[k].shape, 0.05),) for k in (name, norm)}
    lora = ours.clone()
    assert sorted(lora.add_patches(change, 1.0, 1.0)) == sorted([name, norm])
    text = tokens(1.2)
    for _ in range(3):
        before = same(ours, text)
        after = same(lora, text)
        assert not torch.allclose(before, after, atol=1e-3)
        for _ in range(3):  # until the patched weights would be packed
            same(lora, tokens())
    for _ in range(3):
        same(ours, tokens())
    torch.testing.assert_close(same(ours, text), before, atol=0, rtol=0)
    print("LoRA on and off")

    saved = ours.get_sd()
    torch.testing.assert_close(
        saved[name], weights[name.removeprefix("clip_h.transformer.")].half(), atol=0, rtol=0)
    lora.load_model()
    assert not torch.equal(lora.get_sd()[name], saved[name])
    same(ours, tokens())
    print("saving")

    if hasattr(ours.patcher, "patch_hooks"):
        for target in (name, norm):
            for _ in range(4):
                same(ours, text)
            before = ours.encode_from_tokens(text)
            value = ours.get_sd()[target].clone()
            from comfy import utils
            for _ in range(2):  # what patch_hooks does, and undoes
                utils.copy_to_param(ours.patcher.model, target, value * 2)
                for _ in range(4):
                    hooked = ours.encode_from_tokens(text)
                    ours.encode_from_tokens(tokens())
                    assert not torch.allclose(hooked, before, atol=1e-4), target
                utils.copy_to_param(ours.patcher.model, target, value)
                torch.testing.assert_close(ours.encode_from_tokens(text), before,
                                           atol=2e-5, rtol=0)
        print("hooks")

    for _ in range(4):
        same(ours, tokens())
    layer = linears(ours)[0]
    if hasattr(type(layer), "weight_function"):
        before = ours.encode_from_tokens(text)
        layer.weight_function = [lambda weight: weight * 2]
        changed = ours.encode_from_tokens(text)
        assert not torch.allclose(changed, before, atol=1e-4)
        layer.weight_function = []
        torch.testing.assert_close(ours.encode_from_tokens(text), before, atol=2e-5, rtol=0)
        print("functions")

    for _ in range(4):
        same(ours, tokens())
    assert packed(ours) > 100 if packs else True
    model_management.unload_all_models()
    assert packed(ours) == 0
    assert not ours.cond_stage_model.clip_h.setup.cache._results
    same(ours, text)
    print("unload")

    onednn.PACK_AFTER = 1
    free = model_management.get_free_memory
    model_management.get_free_memory = lambda *a, **k: 1000
    poor = load()
    for _ in range(3):
        poor.cond_stage_model.encode_token_weights(tokens())
    assert packed(poor) == 0
    model_management.get_free_memory = free
    print("little memory")
"""


@pytest.mark.slow
def test_packed_and_cached_results_are_cores_through_all_that_a_patcher_does(
    installation: Path, tmp_path: Path
) -> None:
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    values = {
        "COMFYUI": str(installation),
        "SUPPORT": str(ROOT / "tests" / "support"),
        "PARENT": str(tmp_path),
        "FILE": str(tmp_path / "small.safetensors"),
        "CONFIG": SMALL_CONFIG,
    }
    program = "".join(f"{name} = {value!r}\n" for name, value in values.items()) + PROGRAM
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    steps = ("plain and weighted", "LoRA on and off", "saving", "unload", "little memory")
    assert [step for step in steps if step not in done.stdout] == []
