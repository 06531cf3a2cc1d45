"""sd2-clip convert: what it says of what it wrote, and which fault it names first."""

from functools import partial

import layouts
import pytest
import torch
from sd2_clip import cli
from sd2_clip.cli import convert_command
from sd2_clip.clip import convert_encoder
from sd2_clip.sd2.config import load_config
from sd2_clip.sd2.detection.detect import detect


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with tiny encoders."""
    config = load_config(layouts.TINY_CONFIG)
    monkeypatch.setattr(
        convert_encoder, "convert_encoder", partial(convert_encoder.convert_encoder, config=config)
    )
    monkeypatch.setattr(convert_command, "detect", partial(detect, config=config))
    monkeypatch.chdir(tmp_path)
    encoder = layouts.canonical_encoder(dtype=torch.float16)
    layouts.save_safetensors(layouts.diffusers(encoder), tmp_path / "sd2.safetensors")
    narrow = {
        name: tensor.to(torch.float8_e4m3fn) if tensor.ndim > 1 else tensor
        for name, tensor in encoder.items()
    }
    layouts.save_safetensors(layouts.diffusers(narrow), tmp_path / "fp8.safetensors")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html>\n" * 40)

    def run(*words):
        status = cli.main(["convert", *words])
        return status, capsys.readouterr()

    return run


def test_dtype_and_size_of_what_was_written_follow_the_path(convert):
    status, said = convert("sd2.safetensors", "out.safetensors")
    assert status == 0, said.err
    assert said.out == "out.safetensors: F16, 3.2 MB\n"
    assert convert("sd2.safetensors", "wide.safetensors", "--dtype", "fp32")[1].out.startswith(
        "wide.safetensors: F32, 6."
    )


def test_fp8_is_kept_and_said(convert):
    status, said = convert("fp8.safetensors", "out.safetensors")
    assert status == 0, said.err
    assert said.out.startswith("out.safetensors: F16 and F8_E4M3, ")
    assert "--dtype fp16 widens it" in said.err
    status, said = convert("fp8.safetensors", "wide.safetensors", "--dtype", "fp16")
    assert said.out.startswith("wide.safetensors: F16, ")
    assert "fp8" not in said.err.partition("Type:")[2].partition("\n")[2]


def test_what_is_wrong_with_the_input_is_named_first(convert):
    for name, fault in (("page.safetensors", "a web page"), ("gone.ckpt", "no such file")):
        status, said = convert(name, "x")
        assert status == 1
        assert fault in said.err
    assert "must end in .safetensors" in convert("sd2.safetensors", "x")[1].err
