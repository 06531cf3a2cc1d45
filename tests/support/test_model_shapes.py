"""The generator's shapes add up to the parameter counts that the models' authors publish."""

import model_shapes as shapes
import pytest
from model_shapes import SD2_CONFIG


@pytest.mark.parametrize(
    ("tensors", "parameters"),
    [
        (shapes.openclip_text(SD2_CONFIG), 354_032_641),  # 354.03 M, and the logit scale
        (shapes.transformers_text({**SD2_CONFIG, "num_hidden_layers": 23}), 340_387_840),
        (shapes.openclip_vision(), 632_076_800),
        (shapes.transformers_vision(), 632_076_800),
        (shapes.ldm_unet(context=1024, linear=True), 865_910_724),
        (shapes.ldm_unet(context=768, linear=False), 859_520_964),
        (shapes.sdxl_unet(), 2_567_463_684),
        (shapes.ldm_vae(), 83_653_863),
    ],
    ids=[
        "text",
        "text-23",
        "openclip-vision",
        "vision",
        "sd2-unet",
        "sd1-unet",
        "sdxl-unet",
        "vae",
    ],
)
def test_shapes_add_up(tensors, parameters):
    assert shapes.count(tensors) == parameters
