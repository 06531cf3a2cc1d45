"""Files are opened by their content, header first; what is not a model is named."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import save_pickle, save_safetensors
from safetensors.torch import load_file
from sd2_clip.sd2.errors import SD2ClipError, UnreadableFileError
from sd2_clip.sd2.files.checkpoint import TensorInfo, open_checkpoint
from tensor_files import STATE, equal


def test_safetensors_reads_what_its_own_library_reads(tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(path)
    assert equal(checkpoint.read(checkpoint.tensors), load_file(path))


@pytest.mark.parametrize("form", ["zip", "legacy", "zip-deflated"])
def test_pickle_reads_what_torch_reads(form, tmp_path):
    checkpoint = open_checkpoint(save_pickle(STATE, tmp_path / "x.ckpt", form))
    assert equal(checkpoint.read(checkpoint.tensors), STATE)


def test_format_is_decided_by_content_not_by_extension(tmp_path):
    swapped = save_safetensors(STATE, tmp_path / "x.ckpt")
    other = save_pickle(STATE, tmp_path / "y.safetensors")
    assert open_checkpoint(swapped).tensors.keys() == open_checkpoint(other).tensors.keys()


def test_header_tells_shapes_and_types(tmp_path):
    for path in (save_safetensors(STATE, tmp_path / "x"), save_pickle(STATE, tmp_path / "y")):
        tensors = open_checkpoint(path).tensors
        assert tensors["a.weight"] == TensorInfo((3, 4), "F32")
        assert tensors["a.brain"] == TensorInfo((5,), "BF16")
        assert tensors["b.scalar"] == TensorInfo((), "F32")


def test_unknown_name_is_a_key_error(tmp_path):
    with pytest.raises(KeyError):
        open_checkpoint(save_safetensors(STATE, tmp_path / "x")).read(["nothing"])


def test_opening_imports_neither_torch_nor_numpy(tmp_path):
    paths = [
        save_safetensors(STATE, tmp_path / "x.safetensors"),
        save_pickle(STATE, tmp_path / "x.ckpt"),
        save_pickle(STATE, tmp_path / "y.ckpt", "legacy"),
    ]
    root = os.path.dirname(sys.modules["sd2_clip"].__file__)
    script = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('sd2_clip', {root!r} + '/__init__.py',"
        f" submodule_search_locations=[{root!r}])\n"
        "sys.modules['sd2_clip'] = importlib.util.module_from_spec(spec)\n"
        "from sd2_clip.sd2.files.checkpoint import open_checkpoint\n"
        "from sd2_clip.sd2.detection.placeholder_weights import add_placeholder_layers\n"
        f"for path in {[str(path) for path in paths]!r}:\n"
        "    open_checkpoint(path).read_values('a.half')\n"
        "print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_entries_that_are_no_tensors_are_kept_out(tmp_path):
    path = save_pickle(
        {"w": torch.ones(1), "step": 3, "name": "x", 5: torch.ones(1)}, tmp_path / "x"
    )
    assert list(open_checkpoint(path).tensors) == ["w"]


@pytest.mark.parametrize(
    "value",
    [
        {"state_dict": {"w": torch.ones(1)}, "optimizer": {"m": torch.ones(2)}},
        {"model": {"w": torch.ones(1)}, "step": 1},
        {"module": {"w": torch.ones(1)}},
        {"anything": {"w": torch.ones(1)}},
        {"state_dict": {"model": {"w": torch.ones(1)}}},
    ],
    ids=["state_dict", "model", "module", "single-key", "twice"],
)
def test_wrappers_are_taken_off(value, tmp_path):
    assert list(open_checkpoint(save_pickle(value, tmp_path / "x")).tensors) == ["w"]


def test_other_nested_tables_get_dotted_names(tmp_path):
    value = {"unet": {"w": torch.ones(1)}, "text_encoder": {"a": {"b": torch.ones(1)}}}
    names = list(open_checkpoint(save_pickle(value, tmp_path / "x")).tensors)
    assert names == ["unet.w", "text_encoder.a.b"]


@pytest.mark.parametrize(
    ("value", "named"),
    [(torch.ones(3), r"single tensor of shape \[3\]"), ([torch.ones(1)], "list"), (7, "int")],
    ids=["tensor", "list", "number"],
)
def test_a_file_without_a_table_is_no_checkpoint(value, named, tmp_path):
    with pytest.raises(UnreadableFileError, match=named):
        open_checkpoint(save_pickle(value, tmp_path / "x.pt"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"\x10", "truncated"),
        (b"\0" * 4096, "unfinished download"),
        (b"<!DOCTYPE html><html><head></head></html>" * 9, "web page"),
        (b"\n\n<html lang=en>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-lfs pointer"),
        (b'{"error": "Entry not found, at length"}', "JSON"),
        (b"GGUF\x03\0\0\0" + b"\0" * 90, "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 90, "an image"),
        (b"\x1f\x8b\x08" + b"\0" * 90, "Unpack"),
        (b"\x80\x04\x95" + b"\0" * 90, "not one that torch.save wrote"),
        (b"\0" * 257 + b"ustar\0" + b"\1" * 90, "tar archive|zeros"),
        (b"just some text that is no model at all", "neither a safetensors file nor"),
    ],
    ids=["empty", "one-byte", "zeros", "html", "html-indented", "lfs", "json", "gguf", "png",
         "gzip", "pickle", "tar", "text"],
)  # fmt: skip
def test_what_is_no_model_is_named(content, named, tmp_path):
    path = tmp_path / "sd2.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=rf"sd2\.safetensors.*({named})"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"<!DOCTYPE html>\n<html>" * 9, 'begins with "<!DOCTYPE html>".'),
        (b"\n\n<html lang=en>", 'begins with "<html lang=en>".'),
        (b'say "no"', 'begins with "say "no"".'),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 90, "begins with the bytes 89 50 4e 47 0d 0a 1a 0a 00"),
        ("Übersetzung".encode(), "begins with the bytes c3 9c 62"),
        (b"\x10", "begins with the bytes 10."),
    ],
)
def test_the_start_of_a_file_is_shown_without_python(content, shown, tmp_path):
    path = tmp_path / "sd2.safetensors"
    path.write_bytes(content)
    with pytest.raises(UnreadableFileError) as caught:
        open_checkpoint(path)
    assert shown in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(UnreadableFileError, match="not a file"):
        open_checkpoint(path)


FUZZ = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(content=st.binary(max_size=200))
@pytest.mark.slow
def test_any_bytes_give_one_of_our_errors(content, tmp_path):
    path = tmp_path / "fuzz"
    path.write_bytes(content)
    with contextlib.suppress(SD2ClipError):
        open_checkpoint(path)


def test_a_pickled_module_in_a_dict_is_read_as_its_state_dict(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    module.register_buffer("step", torch.ones(1))
    torch.save({"model": module}, tmp_path / "module.pt")
    checkpoint = open_checkpoint(tmp_path / "module.pt")
    assert set(checkpoint.tensors) == set(module.state_dict())
    for name, tensor in checkpoint.read(checkpoint.tensors).items():
        assert torch.equal(tensor, module.state_dict()[name])


def test_dicts_that_share_dicts_are_counted_and_refused():
    path = Path(__file__).parents[2] / "data" / "hostile" / "laughs_4x200.ckpt"
    with pytest.raises(UnreadableFileError, match="more than 200,000 values"):
        open_checkpoint(path)
