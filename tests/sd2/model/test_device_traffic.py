"""What an encode asks of a device: checked on ``meta``, where reading a value back must fail."""

from collections import Counter

import pytest
import tiny
import torch
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.host.interface import DevicePlacement
from sd2_clip.host.standalone import StandaloneHost
from sd2_clip.sd2.model.encoder_setup import SETUP_KEY, EncoderSetup
from sd2_clip.sd2.sd2_clip import SD2ClipModel
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class Recorder(TorchDispatchMode):
    """Counts kernels, and copies from the CPU to the device."""

    def __init__(self):
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.uploads = 0
        self.upload_dtypes: set[tuple[torch.dtype, torch.dtype]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.device == META:
            self.kernels[name] += 1
            sources = [a for a in args if isinstance(a, torch.Tensor) and a.device != META]
            if name in ("_to_copy", "copy_") and sources:
                self.uploads += 1
                self.upload_dtypes.add((sources[0].dtype, result.dtype))
        return result


@pytest.fixture
def model() -> SD2ClipModel:
    setup = EncoderSetup(compute_dtype=torch.float16, output_device=None)
    options = {**tiny.MODEL_OPTIONS, SETUP_KEY: setup}
    return SD2ClipModel(device="meta", model_options=options, dtype=torch.float16)


def pairs(weighted: int, vectors: int = 0):
    chunk = [49406, *range(300, 340), 49407] + [0] * 35
    tokens = [torch.zeros(32) if 1 <= i <= vectors else t for i, t in enumerate(chunk)]
    return {"h": [[(t, 1.2 if 1 <= i <= weighted else 1.0) for i, t in enumerate(tokens)]]}


def record(model, tokens):
    with torch.no_grad(), Recorder() as recorder:
        cond, pooled = model.encode_token_weights(tokens)
    assert cond.shape == (1, 77, 32)
    assert pooled.shape == (1, 32)
    return recorder


def test_an_encode_never_waits_for_the_device(model):
    """Reading a value from a meta tensor (item, a truth value, a list) raises."""
    record(model, pairs(weighted=5, vectors=3))


def test_a_plain_prompt_is_one_upload(model):
    assert record(model, pairs(0)).uploads == 1


@pytest.mark.parametrize("count", [1, 30])
def test_vectors_are_one_more_upload_however_many(model, count):
    assert record(model, pairs(0, vectors=count)).uploads == 2


def test_weights_cost_the_same_kernels_however_many(model):
    assert record(model, pairs(weighted=40)).kernels == record(model, pairs(weighted=1)).kernels


def test_attention_is_the_fused_causal_kernel_without_a_mask(model, monkeypatch):
    seen = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def recorded(q, k, v, attn_mask=None, **options):
        seen.append((q.dtype, attn_mask is None, options.get("is_causal", False)))
        return attend(q, k, v, attn_mask, **options)

    monkeypatch.setattr("sd2_clip.sd2.model.text_model.scaled_dot_product_attention", recorded)
    with torch.no_grad():
        model.encode_token_weights(pairs(0), return_pooled=False)
    assert seen == [(torch.float16, True, True)] * 3


def test_loading_sends_each_tensor_once_and_casts_on_the_device(monkeypatch):
    here = StandaloneHost()
    monkeypatch.setattr("sd2_clip.host.current", lambda: here)
    monkeypatch.setattr(
        here, "select_device", lambda *_: DevicePlacement(META, META, torch.bfloat16)
    )
    path = tiny.GOLDEN / "tiny_text_encoder.safetensors"
    with Recorder() as recorder:
        clip = load_clip(path, model_options=tiny.MODEL_OPTIONS)
    assert {p.dtype for p in clip.cond_stage_model.clip_h.transformer.parameters()} == {
        torch.bfloat16
    }
    assert recorder.uploads == len(tiny.state_dict())
    assert recorder.upload_dtypes == {(torch.float16, torch.float16)}
