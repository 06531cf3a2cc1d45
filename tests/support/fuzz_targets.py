"""Each parser, as a function of bytes that keeps the promise of SECURITY.md or fails.

The promise: a result, or one of our errors with a message that is plain and at most 1,000
characters long. Any other exception is a finding.
"""

from __future__ import annotations

import atexit
import io
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

MIB = 1 << 20
MOST_WEIGHTS = 16 * MIB
"""Bytes of tensors that are read; whoever asks for more weights pays for them."""


@cache
def folder() -> Path:
    """A folder that this process writes its files to."""
    path = Path(tempfile.mkdtemp(prefix="sd2-clip-fuzz-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def written(data: bytes, name: str) -> Path:
    path = folder() / name
    path.write_bytes(data)
    return path


def attempt(read: Callable[[], object]) -> None:
    """Call *read*, and check how it refuses."""
    from sd2_clip.sd2.errors import MAX_MESSAGE, SD2ClipError, plain_text

    try:
        read()
    except SD2ClipError as error:
        message = str(error)
        assert 0 < len(message) <= MAX_MESSAGE, f"{len(message)} characters"
        assert plain_text(message, None) == message


def read_model(path: Path) -> None:
    """Read a file as all that a file of tensors may be."""
    from sd2_clip.clip.conditioning_file import load_conditioning
    from sd2_clip.sd2.detection.detect import detect
    from sd2_clip.sd2.files.checkpoint import open_checkpoint
    from sd2_clip.sd2.files.file_kinds import is_conditioning_file
    from sd2_clip.sd2.files.tensor_storage import itemsize
    from sd2_clip.sd2.lora.lora_file import read_lora
    from sd2_clip.sd2.tokens.textual_inversion_file import read_vectors

    def weights() -> None:
        checkpoint = open_checkpoint(path)
        checkpoint.header_digest()
        size = sum(
            max(location.block.size, prod(location.shape) * (itemsize(location.dtype) or 1))
            for location in checkpoint.locations.values()
        )
        if size <= MOST_WEIGHTS:
            checkpoint.read(checkpoint.locations)
        for name in list(checkpoint.locations)[:20]:
            checkpoint.read_values(name, 0, 100)
            checkpoint.are_zeros(name, 1, 100)

    attempt(weights)
    attempt(lambda: detect(path, tiny_config()))
    attempt(lambda: read_vectors(path, 8, "clip_h"))
    attempt(lambda: read_lora(path, lora_shapes()).describe(1.0))
    attempt(lambda: is_conditioning_file(path))
    if path.suffix == ".safetensors":
        attempt(lambda: load_conditioning(path))
        attempt(lambda: read_workflow(path))


@cache
def tiny_config() -> Any:
    from sd2_clip.sd2.config import load_config

    return load_config(
        {
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 2,
            "max_position_embeddings": 8,
            "vocab_size": 16,
            "projection_dim": 8,
        }
    )


@cache
def lora_shapes() -> dict[str, tuple[int, ...]]:
    """Weights of a text encoder 8 wide."""
    model = "clip_h.transformer.text_model."
    shapes: dict[str, tuple[int, ...]] = {f"{model}final_layer_norm.weight": (8,)}
    for layer in range(2):
        block = f"{model}encoder.layers.{layer}."
        for name in ("q", "k", "v", "out"):
            shapes[f"{block}self_attn.{name}_proj.weight"] = (8, 8)
            shapes[f"{block}self_attn.{name}_proj.bias"] = (8,)
        shapes[f"{block}mlp.fc1.weight"], shapes[f"{block}mlp.fc2.weight"] = (16, 8), (8, 16)
    return shapes


def safetensors(data: bytes) -> None:
    """The header, as JSON; 4 kB of tensors follow it."""
    values = struct.pack("<1024f", *(i / 64 for i in range(1024)))
    start = struct.pack("<Q", len(data))
    read_model(written(start + data + values, "file.safetensors"))


def safetensors_file(data: bytes) -> None:
    """A whole file."""
    read_model(written(data, "whole.safetensors"))


def pickle(data: bytes) -> None:
    """The pickle in a zip file of torch, and, as it is, in an old one."""
    from sd2_clip.sd2.files.torch_file import LEGACY_START

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", bytes(range(256)))
        archive.writestr("archive/data/1", b"\0" * 64, zipfile.ZIP_DEFLATED)
    read_model(written(file.getvalue(), "zipped.pt"))
    keys = b"\x80\x02]X\1\0\0\x000a."
    system = b"\x80\x02}X\r\0\0\0little_endian\x88s."
    storage = struct.pack("<q", 16) + bytes(range(64))
    legacy = LEGACY_START + b"\x80\x02M\xe9\x03." + system + data + keys + storage
    read_model(written(legacy, "legacy.pt"))


def torch_file(data: bytes) -> None:
    """A whole file of ``torch.save``, of either format: the zip directory, the list of storages."""
    read_model(written(data, "whole.pt"))


def png(data: bytes) -> None:
    """A PNG, as a workflow and as a textual inversion."""
    path = written(b"\x89PNG\r\n\x1a\n" + data, "file.png")
    attempt(lambda: read_workflow(path))
    read_embedding(path)


def read_embedding(path: Path) -> None:
    from sd2_clip.sd2.tokens.textual_inversion_file import read_vectors

    attempt(lambda: read_vectors(path, 8, "clip_h"))


def workflow(data: bytes) -> None:
    """A document in either format of workflows."""
    path = written(data, "workflow.json")
    attempt(lambda: read_workflow(path))


def read_workflow(path: Path) -> None:
    from sd2_clip import NODE_CLASS_MAPPINGS
    from sd2_clip.headless.overrides import apply_overrides
    from sd2_clip.headless.validation.validate import validate
    from sd2_clip.headless.workflow import load_workflow
    from sd2_clip.sd2.errors import plain_text

    loaded = load_workflow(path, NODE_CLASS_MAPPINGS)
    for line in validate(loaded).lines():
        plain_text(line)
    for name in list(loaded.titles.values())[:3]:
        attempt(lambda name=name: apply_overrides(loaded, [f"{name}.text=a"]))


def yaml(data: bytes) -> None:
    """A config of a checkpoint, and a list of folders of models."""
    read_yaml(written(data, "file.yaml"))


def read_yaml(path: Path) -> None:
    from sd2_clip.host.standalone import StandaloneHost
    from sd2_clip.sd2.detection.ldm_config import read_ldm_config

    attempt(lambda: read_ldm_config(path))
    attempt(lambda: StandaloneHost([path]))


@cache
def _tokenizer() -> Any:
    from safetensors.numpy import save_file
    from sd2_clip.sd2.tokens.sd_tokenizer import SDTokenizer

    embeddings = folder() / "embeddings"
    embeddings.mkdir()
    numpy = __import__("numpy")
    save_file({"emb_params": numpy.ones((3, 8), "float32")}, embeddings / "cat.safetensors")
    return SDTokenizer(embedding_directory=[str(embeddings)], embedding_size=8)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _tokenize(text: str, syntax: str, chunk_split: str) -> None:
    from sd2_clip.sd2.tokens.tokenize_text import tokenize_text

    tokenize_text(
        _tokenizer(), text, syntax=syntax, steps=len(text) % 30, chunk_split=chunk_split
    ).table()


def a1111_prompt(data: bytes) -> None:
    """A prompt in A1111's syntax, tokenized and reported."""
    text = _text(data)
    for chunk_split in ("tokens", "words"):
        attempt(lambda split=chunk_split: _tokenize(text, "a1111", split))


def comfy_prompt(data: bytes) -> None:
    """A prompt in ComfyUI's syntax, with the editor's choices and comments."""
    from random import Random

    from sd2_clip.sd2.syntax.dynamic_prompt import longest_choice, resolve_choices

    text = _text(data)
    for chunk_split in ("tokens", "words"):
        attempt(lambda split=chunk_split: _tokenize(text, "comfy", split))
    attempt(lambda: resolve_choices(text, Random(0)))
    attempt(lambda: longest_choice(text, len))


CAPTION_ENDINGS = (
    *(".txt", ".jsonl", ".csv", ".tsv", ".json", ".parquet", ".arrow", ".tar"),
    *(".txt.gz", ".jsonl.zst", ".csv.gz"),
)


def captions(data: bytes) -> None:
    """A table of captions; the first byte chooses its kind, the second how it is read."""
    if len(data) < 2:
        return
    ending = CAPTION_ENDINGS[data[0] % len(CAPTION_ENDINGS)]
    options: dict[str, Any] = {"captions": ("first", "all", "random")[data[1] % 3]}
    if data[1] & 4:
        options["column"] = "json.caption"
    if data[1] & 8:
        options["key_column"] = "key"
    if data[1] & 16:
        options["header"] = False
    inputs = folder() / "captions"
    inputs.mkdir(exist_ok=True)
    path = inputs / f"metadata{ending}"
    path.write_bytes(data[2:])
    attempt(lambda: read_captions(path, options))
    path.unlink()


def read_captions(path: Path, options: dict[str, Any]) -> None:
    from sd2_clip.dataset.fragments import read_table
    from sd2_clip.dataset.inputs.captions import ReadOptions
    from sd2_clip.dataset.inputs.find import find_inputs
    from sd2_clip.dataset.read_fragment import FragmentReader, check_first_caption
    from sd2_clip.dataset.storage import Folder

    read = ReadOptions(**options)
    inputs = find_inputs(str(path), Folder(str(folder() / "out")), read)
    check_first_caption(inputs, read)
    table = read_table(inputs.folder, inputs.tables[0], 4, read)
    reader = FragmentReader(inputs.folder, read)
    try:
        for fragment in list(table.fragments(4, ""))[:100]:
            reader.read(fragment)
    finally:
        reader.close()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "safetensors": safetensors,
    "safetensors_file": safetensors_file,
    "pickle": pickle,
    "torch_file": torch_file,
    "png": png,
    "workflow_api": workflow,
    "workflow_editor": workflow,
    "yaml": yaml,
    "a1111_prompt": a1111_prompt,
    "comfy_prompt": comfy_prompt,
    "captions": captions,
}
JSON_TARGETS = ("safetensors", "workflow_api", "workflow_editor")
"""Whose input is JSON, and is mutated as such."""
