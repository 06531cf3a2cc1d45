"""At its real size the encoder equals two independent implementations."""

import layouts
import pytest
import torch
from model_shapes import SD2_CONFIG
from sd2_clip.sd2.sd2_clip import SD2ClipModel, build_text_encoder
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

pytestmark = pytest.mark.full_size

IDS = [
    [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 49407] + [0] * 67,
    [49406, *range(1000, 1075), 49407],
]


@pytest.fixture(scope="module")
def weights():
    return layouts.canonical_encoder(SD2_CONFIG)


@pytest.fixture(scope="module")
def model(weights) -> SD2ClipModel:
    return build_text_encoder(weights)


@pytest.fixture
def encoded(model):
    """Penultimate and last states, and the pooled vectors, of the two texts."""
    penultimate, pooled = model.clip_h(IDS)
    model.clip_layer(-1)
    last, _ = model.clip_h(IDS)
    model.reset_clip_layer()
    return {"penultimate": penultimate, "last": last, "pooled": pooled}


def assert_equal(encoded, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(encoded[name], tensor, atol=1e-4, rtol=0, msg=name)


def test_equals_transformers(encoded, weights):
    config = CLIPTextConfig(**SD2_CONFIG, hidden_act="gelu", eos_token_id=49407)
    with torch.device("meta"):
        peer = CLIPTextModelWithProjection(config)
    tensors = {name: tensor for name, tensor in weights.items() if name != "logit_scale"}
    peer.load_state_dict(tensors, strict=False, assign=True)
    peer.text_model.embeddings.position_ids = torch.arange(77)[None]
    with torch.no_grad():
        out = peer.train(False)(torch.tensor(IDS), output_hidden_states=True)
        norm = peer.text_model.final_layer_norm
        expected = {
            "penultimate": norm(out.hidden_states[-2]),
            "last": norm(out.hidden_states[-1]),
            "pooled": out.text_embeds,
        }
    assert_equal(encoded, expected)


@pytest.mark.oracle
def test_equals_open_clip(encoded, weights):
    pytest.importorskip("open_clip", reason="open_clip is not installed (make test-oracles)")
    from open_clip.model import CLIPTextCfg, _build_text_tower

    # open_clip's own ViT-H-14 configuration, without the image half.
    cfg = CLIPTextCfg(context_length=77, vocab_size=49408, width=1024, heads=16, layers=24)
    with torch.device("meta"):
        peer = _build_text_tower(1024, cfg)
    tensors = layouts.openclip(weights)
    del tensors["logit_scale"]
    peer.load_state_dict(tensors, strict=False, assign=True)
    peer.attn_mask = torch.full((77, 77), float("-inf")).triu_(1)
    states = {}
    for name, block in (("penultimate", -2), ("last", -1)):
        peer.transformer.resblocks[block].register_forward_hook(
            lambda _module, _inputs, output, name=name: states.update({name: output})
        )
    with torch.no_grad():
        pooled = peer.train(False)(torch.tensor(IDS))
        expected = {name: peer.ln_final(state) for name, state in states.items()}
    assert_equal(encoded, {**expected, "pooled": pooled})
