"""The text encoder under ComfyUI's class names: what it accepts, and how it is built."""

import pytest
import tiny
from sd2_clip.sd2.errors import OptionError
from sd2_clip.sd2.sd2_clip import SD2ClipHModel, SD2ClipModel, build_text_encoder


@pytest.mark.parametrize("options", [{"arch": "ViT-L-14"}, {"max_length": 248}], ids=str)
def test_what_cannot_be_honoured_is_an_error(options):
    with pytest.raises(OptionError):
        SD2ClipHModel(device="meta", **options)


def test_freeze_turns_gradients_off():
    parameters = list(tiny.text_encoder().parameters())
    assert not any(parameter.requires_grad for parameter in parameters)
    trainable = SD2ClipHModel(device="meta", freeze=False, model_options=tiny.MODEL_OPTIONS)
    assert all(parameter.requires_grad for parameter in trainable.parameters())


def test_state_dict_names_are_comfyuis():
    names = set(SD2ClipModel(device="meta").state_dict())
    layer = "clip_h.transformer.text_model.encoder.layers.23"
    assert len(names) == 390
    assert {
        "clip_h.logit_scale",
        "clip_h.transformer.text_projection.weight",
        "clip_h.transformer.text_model.embeddings.position_embedding.weight",
        f"{layer}.self_attn.q_proj.bias",
        f"{layer}.mlp.fc2.weight",
    } <= names


def test_building_takes_the_tensors_over_without_a_copy():
    tensors = {name: tensor.float() for name, tensor in tiny.state_dict().items()}
    model = build_text_encoder(tensors, model_options=tiny.MODEL_OPTIONS)
    weight = model.clip_h.transformer.text_projection.weight
    assert weight.data_ptr() == tensors["text_projection.weight"].data_ptr()


def test_building_names_what_is_missing():
    tensors = tiny.state_dict()
    del tensors["text_model.final_layer_norm.bias"]
    with pytest.raises(OptionError, match=r"final_layer_norm\.bias"):
        build_text_encoder(tensors, model_options=tiny.MODEL_OPTIONS)
