"""With encoders of the real size: the same conditioning, and the same picture."""

import pytest
import torch
from comfyui_graphs import assert_same, core_clip, encode, our_clip, results
from comfyui_server import ComfyUI, Graph, Link
from safetensors.torch import load_file

pytestmark = pytest.mark.full_size

TEXT = "a (red:1.3) cat on a roof"


@pytest.mark.parametrize(
    "file", ["sd21.safetensors", "sd21.ckpt", "encoder.safetensors", "23-layers.safetensors"]
)
def test_three_ways_to_encode_agree(full_comfyui: ComfyUI, file: str) -> None:
    graph = Graph()
    ours, core = our_clip(graph, file), core_clip(graph, file)
    found = results(
        full_comfyui,
        graph,
        ours_core_node=encode(graph, ours, TEXT),
        ours_our_node=graph.add("EncodeSD2Text", clip=ours, text=TEXT).out(),
        core=encode(graph, core, TEXT),
    )
    for name in ("ours_core_node", "ours_our_node"):
        assert_same({"cond0": found[name]["cond0"]}, {"cond0": found["core"]["cond0"]})


def sample(graph: Graph, model: Link, positive: Link, negative: Link, name: str) -> None:
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=1).out()
    sampled = graph.add("KSampler", model=model, seed=7, steps=4, cfg=5.0, sampler_name="euler",
                        scheduler="normal", positive=positive, negative=negative,
                        latent_image=latent, denoise=1.0).out()  # fmt: skip
    graph.add("SaveLatentForTest", latent=sampled, name=name)


def test_a_sampler_makes_the_same_of_both_paths(full_comfyui: ComfyUI) -> None:
    graph = Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name="sd21.safetensors").out()
    ours, core = our_clip(graph, "sd21.ckpt"), core_clip(graph, "sd21.safetensors")
    both = [graph.add("EncodeSD2Text", clip=ours, text=text).out() for text in (TEXT, "blurry")]
    sample(graph, model, *both, name="from_ours")
    sample(graph, model, encode(graph, core, TEXT), encode(graph, core, "blurry"), "from_core")
    full_comfyui.run(graph, seconds=900)
    made = [
        load_file(full_comfyui.output / f"{name}.safetensors")["samples"]
        for name in ("from_ours", "from_core")
    ]
    assert torch.isfinite(made[0]).all()
    assert made[0].std() > 0.01
    torch.testing.assert_close(made[0], made[1], rtol=1e-3, atol=1e-3)
