"""The library's handle: encode with options, prompt_embeds, and both on clones."""

import torch


def test_encode_takes_options(clip):
    assert clip.encode("", padding="none").shape == (1, 2, 32)
    assert torch.equal(clip.encode("a cat", padding="none"), clip.encode("a cat")[:, :4])
    assert torch.equal(clip.encode("a cat", padding="chunk"), clip.encode("a cat"))


def test_clones_are_such_handles_too(clip):
    clone = clip.clone()
    clone.clip_layer(-1)
    assert type(clone) is type(clip)
    assert torch.equal(clone.prompt_embeds("a cat"), clone.encode("a cat"))
    assert not torch.equal(clone.prompt_embeds("a cat"), clip.prompt_embeds("a cat"))
