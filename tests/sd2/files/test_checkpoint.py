"""Files are opened by their content, header first; damage is named for what it is."""

import contextlib
import json
import mmap
import os
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import save_pickle, save_safetensors, save_shards
from safetensors.torch import load_file
from sd2_clip.sd2.errors import SD2ClipError, UnreadableFileError
from sd2_clip.sd2.files.checkpoint import TensorInfo, open_checkpoint

STATE = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.half": torch.arange(5).half(),
    "a.brain": torch.arange(5).bfloat16(),
    "b.ids": torch.arange(7)[None],
    "b.scalar": torch.tensor(2.5),
    "b.empty": torch.empty(0, 3),
}


MMAP = mmap.mmap


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name])
        for name in theirs
    )


def raw_safetensors(header, data=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# Reading


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


def test_metadata_is_kept(tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    assert open_checkpoint(path).metadata == {"format": "pt"}


@pytest.mark.parametrize("padding", range(4))
def test_misaligned_tensors_are_read_right(padding, tmp_path):
    numbers = struct.pack("<2f", 1.5, -2.5)
    header = json.dumps({"x": entry()}).encode()
    header += b" " * (padding - (len(header) + 8) % 4)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(raw_safetensors(header, numbers))
    tensor = open_checkpoint(path).read(["x"])["x"]
    assert tensor.tolist() == [1.5, -2.5]
    assert tensor.data_ptr() % 4 == 0


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    before = path.read_bytes()
    open_checkpoint(path).read(["a.weight"])["a.weight"].fill_(9)
    assert path.read_bytes() == before


def test_tensors_that_share_a_storage_share_memory(tmp_path):
    tied = torch.ones(4)
    path = save_pickle({"a": tied, "b": tied, "c": tied[2:]}, tmp_path / "x.pt")
    read = open_checkpoint(path).read(["a", "b", "c"])
    assert read["a"].data_ptr() == read["b"].data_ptr() == read["c"].data_ptr() - 8


def test_only_what_is_asked_for_is_mapped(tmp_path, monkeypatch):
    mapped = []

    def recording(number, length, **options):
        mapped.append(length)
        return MMAP(number, length, **options)

    monkeypatch.setattr(mmap, "mmap", recording)
    path = save_safetensors(
        {"a": torch.zeros(10), "m": torch.zeros(32 << 20), "z": torch.ones(10)}, tmp_path / "x"
    )
    read = open_checkpoint(path).read(["a", "z"])
    assert [tensor.sum().item() for tensor in read.values()] == [0, 10]
    assert len(mapped) == 2
    assert sum(mapped) < 2 * (mmap.ALLOCATIONGRANULARITY + 80)


def test_unknown_name_is_a_key_error(tmp_path):
    with pytest.raises(KeyError):
        open_checkpoint(save_safetensors(STATE, tmp_path / "x")).read(["nothing"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_read_without_torch(dtype, tmp_path):
    values = torch.tensor([[1.5, -2.0], [0.25, 1024.0]], dtype=dtype)
    for path in (
        save_safetensors({"x": values}, tmp_path / "s"),
        save_pickle({"x": values}, tmp_path / "z"),
        save_pickle({"x": values}, tmp_path / "l", "legacy"),
        save_pickle({"x": values}, tmp_path / "d", "zip-deflated"),
    ):
        checkpoint = open_checkpoint(path)
        assert checkpoint.read_values("x") == (1.5, -2.0, 0.25, 1024.0)
        assert checkpoint.read_values("x", 1, 2) == (-2.0, 0.25)
        assert checkpoint.read_values("x", 3, 9) == (1024.0,)


def test_numbers_of_a_tensor_in_pieces_cannot_be_had(tmp_path):
    checkpoint = open_checkpoint(save_pickle({"x": torch.ones(2, 3).t()}, tmp_path / "x"))
    assert checkpoint.read_values("x") == ()


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


# Pickled structures


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


# Folders and shards


def names_of(path):
    checkpoint = open_checkpoint(path)
    return checkpoint, [file.name for file in checkpoint.files]


PREFERENCES = [
    (["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
    (["model.fp16.safetensors", "model.safetensors"], "model.safetensors"),
    (["model.fp16.safetensors", "pytorch_model.bin"], "model.fp16.safetensors"),
    (["pytorch_model.bin", "pytorch_model.fp16.bin"], "pytorch_model.bin"),
    (["model.fp16.safetensors"], "model.fp16.safetensors"),
    (["open_clip_pytorch_model.bin", "training_args.bin"], "open_clip_pytorch_model.bin"),
    (["my-encoder.safetensors"], "my-encoder.safetensors"),
]


@pytest.mark.parametrize(("there", "chosen"), PREFERENCES, ids=lambda value: str(value))
@pytest.mark.parametrize("inner", ["", "text_encoder"], ids=["folder", "pipeline"])
def test_choice_in_a_folder_prefers_safe_and_full_precision(there, chosen, inner, tmp_path):
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    for name in there:
        save = save_safetensors if name.endswith("safetensors") else save_pickle
        save(STATE, folder / name)
    checkpoint, files = names_of(tmp_path)
    assert files == [chosen]
    assert any(chosen in note for note in checkpoint.notes)


def test_pipeline_folder_is_noted(tmp_path):
    (tmp_path / "text_encoder").mkdir()
    save_safetensors(STATE, tmp_path / "text_encoder" / "model.safetensors")
    save_safetensors(STATE, tmp_path / "v2-1_768-ema-pruned.safetensors")
    checkpoint, _ = names_of(tmp_path)
    assert checkpoint.files[0].parent.name == "text_encoder"
    assert "pipeline" in checkpoint.notes[0]


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("named", ["folder", "index", "shard"])
def test_sharded_set_is_read_whole_whatever_is_named(pickled, named, tmp_path):
    save_shards(STATE, tmp_path, pickled=pickled)
    pattern = {"folder": None, "index": "*.index.json", "shard": "*-00002-of-00003.*"}[named]
    path = tmp_path if pattern is None else next(tmp_path.glob(pattern))
    checkpoint = open_checkpoint(path)
    assert equal(checkpoint.read(STATE), STATE)
    assert len(checkpoint.files) == 3


def test_shards_need_no_index(tmp_path):
    save_shards(STATE, tmp_path)
    next(tmp_path.glob("*.json")).unlink()
    assert open_checkpoint(next(tmp_path.glob("*-00001-*"))).tensors.keys() == STATE.keys()


def test_diffusers_variant_index_is_found(tmp_path):
    save_shards(STATE, tmp_path)
    index = next(tmp_path.glob("*.json"))
    index.rename(tmp_path / "model.safetensors.index.fp16.json")
    assert open_checkpoint(tmp_path).tensors.keys() == STATE.keys()


def test_missing_shard_is_named(tmp_path):
    save_shards(STATE, tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    for path in (tmp_path, tmp_path / "model-00001-of-00003.safetensors"):
        with pytest.raises(UnreadableFileError, match=r"1 are missing: model-00002-of-00003"):
            open_checkpoint(path)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a\\b", "C:x", "..", ""])
def test_index_cannot_lead_out_of_its_folder(name, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(UnreadableFileError, match="outside its own folder"):
        open_checkpoint(index)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "no model file"),
        ({"model_index.json": "{}"}, "without its text_encoder"),
        ({"a.safetensors": "", "b.ckpt": ""}, r"2 model files: a\.safetensors, b\.ckpt"),
        ({"readme.md": ""}, r"readme\.md"),
    ],
    ids=["empty", "pipeline-without-encoder", "several", "no-weights"],
)
def test_folder_without_a_clear_choice_is_an_error(files, named, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UnreadableFileError, match=named):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("text", "named"),
    [("{", "not readable as JSON"), ("[]", "not a model"), ('{"weight_map": {}}', "not a model"),
     ('{"hidden_size": 1024}', "not a model")],
    ids=["broken", "list", "empty-map", "config"],
)  # fmt: skip
def test_other_json_files_are_no_index(text, named, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UnreadableFileError, match=named):
        open_checkpoint(path)


# Damage


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "empty"),
        (b"\x10", "truncated"),
        (b"\0" * 4096, "never finished"),
        (b"<!DOCTYPE html><html><head></head></html>" * 9, "web page"),
        (b"\n\n<html lang=en>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git-lfs pointer"),
        (b'{"error": "Entry not found, at length"}', "JSON"),
        (b"GGUF\x03\0\0\0" + b"\0" * 90, "GGUF"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 90, "picture"),
        (b"\x1f\x8b\x08" + b"\0" * 90, "Unpack"),
        (b"\x80\x04\x95" + b"\0" * 90, "torch.save did not write"),
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


@pytest.mark.parametrize("missing", [1, 20, 40, 60])
def test_truncated_safetensors_says_how_much_is_missing(missing, tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    length = path.stat().st_size
    os.truncate(path, length - missing)
    with pytest.raises(
        UnreadableFileError, match=f"header says {length:,} bytes, file has {length - missing:,}"
    ):
        open_checkpoint(path)


@pytest.mark.parametrize("kept", [17, 40, 200])
def test_safetensors_truncated_in_its_header_is_said_to_be_truncated(kept, tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    os.truncate(path, kept)
    with pytest.raises(UnreadableFileError, match="truncated"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b'{"x": 1}',
        b'{"x": ' + b"[" * 100_000,
        b"{\xff}",
        {"x": entry(shape=(3,))},
        {"x": entry(shape=(-2,))},
        {"x": entry(shape=(True, 2))},
        {"x": entry(shape=(2.0,))},
        {"x": entry(offsets=(8, 0))},
        {"x": entry(offsets=(0,))},
        {"x": entry(dtype=7)},
        {"x": {"dtype": "F32"}},
        {"__metadata__": [1]},
    ],
    ids=["json", "number", "deep", "bytes", "size", "negative", "boolean", "float", "backwards",
         "one-offset", "type", "incomplete", "metadata"],
)  # fmt: skip
def test_header_that_makes_no_sense_is_damaged(header, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw_safetensors(header, b"\0" * 64))
    with pytest.raises(UnreadableFileError, match=r"x\.safetensors.*damaged"):
        open_checkpoint(path)


def test_type_younger_than_us_stops_nobody_who_does_not_want_it(tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"new": entry(dtype="F3_E1M1"), "x": entry(offsets=(8, 16))}
    path.write_bytes(raw_safetensors(header, b"\0" * 16))
    checkpoint = open_checkpoint(path)
    assert checkpoint.read(["x"])["x"].tolist() == [0, 0]
    with pytest.raises(UnreadableFileError, match="F3_E1M1"):
        checkpoint.read(["new"])


def test_file_that_shrank_after_opening_is_an_error(tmp_path):
    path = save_safetensors(STATE, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(path)
    os.truncate(path, 100)
    with pytest.raises(UnreadableFileError, match="changed"):
        checkpoint.read(STATE)


def test_missing_file_and_dangling_link_are_named(tmp_path):
    with pytest.raises(UnreadableFileError, match="no such file"):
        open_checkpoint(tmp_path / "nothing.safetensors")
    link = tmp_path / "link.safetensors"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(UnreadableFileError, match="link to a missing file"):
        open_checkpoint(link)


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
def test_any_bytes_give_one_of_our_errors(content, tmp_path):
    path = tmp_path / "fuzz"
    path.write_bytes(content)
    with contextlib.suppress(SD2ClipError):
        open_checkpoint(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@FUZZ
@given(header=JSON, length=st.none() | st.integers(0, 2**63))
def test_any_json_header_gives_a_checkpoint_or_one_of_our_errors(header, length, tmp_path):
    path = tmp_path / "fuzz"
    path.write_bytes(raw_safetensors(header, b"\0" * 64, length=length))
    with contextlib.suppress(SD2ClipError):
        open_checkpoint(path)


@FUZZ
@given(data=st.data())
def test_mutated_headers_give_tensors_or_one_of_our_errors(data, tmp_path):
    content = bytearray(
        raw_safetensors({"x": entry(), "y": entry("I64", (2,), (8, 24))}, b"\1" * 24)
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 25))] = data.draw(st.integers(0, 255))
    path = tmp_path / "fuzz"
    path.write_bytes(content)
    with contextlib.suppress(SD2ClipError):
        checkpoint = open_checkpoint(path)
        for tensor in checkpoint.read(checkpoint.tensors).values():
            tensor.sum()
