"""Nodes that only tests in a real ComfyUI use; copied into that ComfyUI's custom_nodes.

They hand out what the API does not show: tensors, and what a CLIP is made of.
"""

import json
from pathlib import Path

import folder_paths
import torch
from safetensors.torch import save_file

SMALL = Path(__file__).parent / "small.disabled" / "sd2_clip.py"

if SMALL.parent.exists():
    # Core's SD2 classes read their sizes from a file beside their module.
    try:
        from comfy.text_encoders import sd2_clip
    except ImportError:
        from comfy import sd2_clip
    sd2_clip.__file__ = str(SMALL)


def _path(name):
    return Path(folder_paths.get_output_directory()) / name


class SaveForTest:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"conditioning": ("CONDITIONING",), "name": ("STRING", {})}}

    def run(self, conditioning, name):
        tensors, notes = {}, []
        for index, (cond, options) in enumerate(conditioning):
            tensors[f"cond{index}"] = cond.contiguous().clone()
            if options.get("pooled_output") is not None:
                tensors[f"pooled{index}"] = options["pooled_output"].contiguous().clone()
            plain = {k: v for k, v in options.items() if isinstance(v, (int, float, str))}
            notes.append({**plain, "device": str(cond.device), "keys": sorted(options)})
        save_file(tensors, _path(f"{name}.safetensors"), {"notes": json.dumps(notes)})
        return {"ui": {"text": [name]}}


class SaveLatentForTest:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"latent": ("LATENT",), "name": ("STRING", {})}}

    def run(self, latent, name):
        save_file({"samples": latent["samples"].contiguous()}, _path(f"{name}.safetensors"))
        return {"ui": {"text": [name]}}


class ShowForTest:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"forceInput": True})}}

    def run(self, text):
        return {"ui": {"text": [text]}}


class ListForTest:
    """A list of texts, which "|" separates, and their numbers from 1."""

    RETURN_TYPES = ("STRING", "INT")
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "run"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"texts": ("STRING", {})}}

    def run(self, texts):
        found = texts.split("|") if texts else []
        return (found, list(range(1, len(found) + 1)))


class UnprojectedForTest:
    """What GLIGENTextBoxApply asks a CLIP for."""

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "run"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip": ("CLIP",), "text": ("STRING", {})}}

    def run(self, clip, text):
        cond, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")
        return ([[cond, {"pooled_output": pooled}]],)


class ProbeForTest:
    """What a CLIP is made of, as JSON."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"clip": ("CLIP",)}}

    def run(self, clip):
        model, patcher = clip.cond_stage_model, clip.patcher
        parameters = dict(model.named_parameters())
        found = {
            "clip": f"{type(clip).__module__}.{type(clip).__name__}",
            "patcher": type(patcher).__name__,
            "load_device": str(patcher.load_device),
            "offload_device": str(patcher.offload_device),
            "dtypes": sorted({str(p.dtype) for p in parameters.values()}),
            "inference": sorted(n for n, p in parameters.items() if p.is_inference()),
            "names": sorted(model.state_dict()),
            "inference_mode_here": torch.is_inference_mode_enabled(),
        }
        factory = getattr(patcher, "cached_patcher_init", None)
        if factory is not None:
            again = factory[0](*factory[1])
            own = again.model.state_dict()
            found["rebuilt_equal"] = all(
                torch.equal(t, own[n]) for n, t in model.state_dict().items()
            )
            found["rebuilt_is_new"] = again.model is not model
            found["rebuilt_undynamic"] = type(
                factory[0](*factory[1], disable_dynamic=True)
            ).__name__
        return {"ui": {"text": [json.dumps(found)]}}


class Anything:
    """Stands in for a control net, a GLIGEN model, a vision tower's output and a VAE."""

    image_embeds = torch.ones(1, 1024)

    def copy(self):
        return self

    def set_cond_hint(self, *args, **kwargs):
        return self

    def set_previous_controlnet(self, previous):
        self.previous_controlnet = previous

    def get_sd(self):
        return {}


class StandInsForTest:
    RETURN_TYPES = ("GLIGEN", "CONTROL_NET", "CLIP_VISION_OUTPUT", "VAE")
    FUNCTION = "run"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (Anything(), Anything(), Anything(), Anything())


NODE_CLASS_MAPPINGS = {
    cls.__name__: cls
    for cls in (
        SaveForTest,
        SaveLatentForTest,
        ShowForTest,
        ListForTest,
        UnprojectedForTest,
        ProbeForTest,
        StandInsForTest,
    )
}
