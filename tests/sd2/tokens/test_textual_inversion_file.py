"""Every form of textual inversion files, and why a file is not usable."""

import base64
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sd2_clip.sd2.sd2_tokenizer import SD2Tokenizer
from sd2_clip.sd2.tokens.textual_inversion import (
    Embedding,
    Unusable,
    load_embedding,
)

DATA = Path(__file__).parents[2] / "data"
GOLDEN = DATA / "golden" / "embeddings"
WIDTH = 8
ROWS = torch.arange(3 * WIDTH, dtype=torch.float32).reshape(3, WIDTH) / 4
OTHER = torch.ones(2, 12)


def load(folder: Path, name: str = "e") -> Embedding | Unusable:
    return load_embedding(name, [str(folder)], WIDTH, "clip_h")


def vectors(folder: Path, name: str = "e") -> torch.Tensor:
    found = load(folder, name)
    assert isinstance(found, Embedding), found
    return found.vectors


def reason(folder: Path, name: str = "e") -> str:
    found = load(folder, name)
    assert isinstance(found, Unusable)
    return found.reason


def png(path: Path, *chunks: tuple[bytes, bytes]) -> None:
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in (*chunks, (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data)


def a1111_png(path: Path, rows: torch.Tensor) -> None:
    content = {"string_to_param": {"*": {"TORCHTENSOR": rows.tolist()}}, "name": "e", "step": 1}
    text = base64.b64encode(json.dumps(content).encode())
    png(path, (b"tEXt", b"Title\0e"), (b"tEXt", b"sd-ti-embedding\0" + text))


A1111 = {
    "string_to_token": {"*": 265},
    "string_to_param": {"*": torch.nn.Parameter(ROWS)},
    "name": "e",
    "step": 499,
    "sd_checkpoint": None,
    "sd_checkpoint_name": None,
}


# Form: the file's ending, and how it is written.
FORMS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "A1111": (".pt", lambda path: torch.save(A1111, path)),
    "A1111, before zip": (
        ".pt",
        lambda path: torch.save(A1111, path, _use_new_zipfile_serialization=False),
    ),
    "A1111 in a picture": (".png", lambda path: a1111_png(path, ROWS)),
    "kohya": (".safetensors", lambda path: save_file({"emb_params": ROWS}, path)),
    "diffusers": (".bin", lambda path: torch.save({"<cat-toy>": ROWS}, path)),
    "diffusers, safetensors": (".safetensors", lambda path: save_file({"<cat-toy>": ROWS}, path)),
    "several encoders": (
        ".safetensors",
        lambda path: save_file({"clip_g": OTHER, "clip_h": ROWS, "a": ROWS + 1}, path),
    ),
    "several encoders, names wrong": (
        ".safetensors",
        lambda path: save_file({"clip_g": ROWS, "clip_h": OTHER}, path),
    ),
    "bundled in a LoRA, A1111": (
        ".safetensors",
        lambda path: save_file(
            {
                "bundle_emb.x.string_to_param.*": ROWS,
                "lora_te_x.lora_down.weight": torch.ones(4, WIDTH),
                "a.weight": torch.ones(4, WIDTH),
            },
            path,
        ),
    ),
    "bundled in a LoRA, in parts": (
        ".safetensors",
        lambda path: save_file(
            {
                "bundle_emb.a.clip_h": ROWS[:1].clone(),
                "bundle_emb.a.clip_g": OTHER,
                "bundle_emb.b.clip_h": ROWS[1:].clone(),
            },
            path,
        ),
    ),
    "bare tensor": (".pt", lambda path: torch.save(ROWS, path)),
    "list of dicts": (
        ".pt",
        lambda path: torch.save([{"g": OTHER, "h": ROWS[:1].clone()}, {"h": ROWS[1:]}], path),
    ),
    "dict in a dict": (".pt", lambda path: torch.save({"n": 1, "e": {"x": ROWS}}, path)),
    "another width first": (".pt", lambda path: torch.save({"a": OTHER, "z": ROWS}, path)),
    "without an ending": ("", lambda path: torch.save({"<x>": ROWS}, path)),
}


@pytest.mark.parametrize(("ending", "write"), FORMS.values(), ids=FORMS)
def test_every_form_is_read(tmp_path: Path, ending: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / f"e{ending}")
    assert torch.equal(vectors(tmp_path), ROWS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_every_precision_comes_as_float32(tmp_path: Path, ending: str, dtype: torch.dtype) -> None:
    content = {"emb_params": ROWS.to(dtype)}
    save = save_file if ending == ".safetensors" else torch.save
    save(content, tmp_path / f"e{ending}")
    found = vectors(tmp_path)
    assert found.dtype == torch.float32
    assert torch.equal(found, ROWS)


def test_one_vector_may_be_flat(tmp_path: Path) -> None:
    torch.save({"<x>": ROWS[0].clone()}, tmp_path / "e.bin")
    assert torch.equal(vectors(tmp_path), ROWS[:1])


def test_vectors_read_in_inference_mode_are_ordinary_tensors(tmp_path: Path) -> None:
    save_file({"emb_params": ROWS}, tmp_path / "e.safetensors")
    with torch.inference_mode():
        assert not vectors(tmp_path).is_inference()


def test_three_sd2_vectors_are_not_four_of_sd1(tmp_path: Path) -> None:
    # 3 x 1024 numbers are 4 x 768: ComfyUI's reader of old files guesses by divisibility.
    torch.save(torch.ones(3, 1024), tmp_path / "e.pt", _use_new_zipfile_serialization=False)
    found = load_embedding("e", [str(tmp_path)], 1024, "clip_h")
    assert isinstance(found, Embedding)
    assert found.vectors.shape == (3, 1024)


def test_only_the_first_of_several_a1111_vectors_counts(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": ROWS, "+": ROWS + 1}}, tmp_path / "e.pt")
    assert torch.equal(vectors(tmp_path), ROWS)


def test_vectors_with_nan_are_left_out(tmp_path: Path) -> None:
    rows = ROWS.clone()
    rows[1, 2] = float("nan")
    save_file({"emb_params": rows}, tmp_path / "e.safetensors")
    found = load(tmp_path)
    assert isinstance(found, Embedding)
    assert torch.equal(found.vectors, ROWS[[0, 2]])
    assert found.note == "1 of its vectors contain nan or inf"
    tokenizer = SD2Tokenizer(str(tmp_path))
    tokenizer.clip_h.embedding_size = WIDTH
    (warning,) = tokenizer.tokenize("embedding:e embedding:e").warnings
    assert warning == f"embedding:e: {found.note}"


UNUSABLE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "SD1's width": (
        ".safetensors",
        lambda path: save_file({"emb_params": torch.ones(2, 768)}, path),
        "768 wide (CLIP-L of SD 1.x",
    ),
    "SDXL's widths": (
        ".safetensors",
        lambda path: save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}, path),
        "1280 wide (OpenCLIP bigG of SDXL",
    ),
    "a LoRA": (
        ".safetensors",
        lambda path: save_file({"lora_te_x.lora_down.weight": ROWS}, path),
        "LoRA",
    ),
    "nan throughout": (
        ".safetensors",
        lambda path: save_file({"emb_params": ROWS * float("nan")}, path),
        "nan",
    ),
    "no rows": (
        ".safetensors",
        lambda path: save_file({"emb_params": torch.ones(0, WIDTH)}, path),
        "no vectors",
    ),
    "integers": (
        ".pt",
        lambda path: torch.save({"a": torch.ones(2, WIDTH).int()}, path),
        "no vect",
    ),
    "numbers only": (".pt", lambda path: torch.save({"step": 1}, path), "no vectors"),
    "empty list": (".pt", lambda path: torch.save([], path), "no vectors"),
    "no embedding at all": (".txt", lambda path: path.write_text("hello") and None, "torch.save"),
    "an empty file": (".pt", lambda path: path.write_bytes(b"") and None, "torch.save"),
    "a truncated file": (
        ".safetensors",
        lambda path: path.write_bytes(b"\xff\0\0\0\0\0\0\0{") and None,
        "truncated: its header",
    ),
    "an ordinary picture": (".png", lambda path: png(path, (b"tEXt", b"Title\0x")), "pixels"),
    "a damaged picture": (
        ".png",
        lambda path: png(path, (b"tEXt", b"sd-ti-embedding\0" + base64.b64encode(b"{"))),
        "damaged",
    ),
    "a cut picture": (
        ".png",
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n\0\0") and None,
        "damaged",
    ),
}


@pytest.mark.parametrize(("ending", "write", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_file_is_explained(
    tmp_path: Path, ending: str, write: Callable[[Path], Any], said: str
) -> None:
    write(tmp_path / f"e{ending}")
    assert said in reason(tmp_path, f"e{ending}")
    assert str(tmp_path) not in reason(tmp_path, f"e{ending}")  # which a page shows to anyone


class _Danger:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo no",)


def test_a_pickle_that_would_run_code_is_ignored(tmp_path: Path) -> None:
    torch.save({"<x>": ROWS, "y": _Danger()}, tmp_path / "e.pt")
    assert "system" in reason(tmp_path)


@pytest.mark.parametrize(
    ("name", "rows"), [("a1111", 3), ("kohya", 4), ("diffusers", 1), ("multi", 2)]
)
def test_reference_files_are_read(name: str, rows: int) -> None:
    found = load_embedding(name, [str(GOLDEN)], 32, "clip_h")
    assert isinstance(found, Embedding)
    assert found.vectors.shape == (rows, 32)


def test_reference_file_of_another_width_is_ignored() -> None:
    found = load_embedding("wrongwidth", [str(GOLDEN)], 32, "clip_h")
    assert isinstance(found, Unusable)
    assert "48 wide" in found.reason


def recorded(name: str) -> Embedding | Unusable:
    return load_embedding(name, [str(DATA / "embeddings"), str(DATA / "hostile")], 1024, "clip_h")


def test_a_pickled_parameter_dict_is_read_as_the_data_it_is() -> None:
    found = recorded("embedding_parameterdict.pt")
    assert isinstance(found, Embedding), found
    assert found.vectors.shape == (1, 1024)


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_the_parameters_of_a_pickled_module_are_read(tmp_path: Path, protocol: int) -> None:
    torch.save({"module": torch.nn.Sequential(torch.nn.Embedding(3, WIDTH, _weight=ROWS))},
               tmp_path / "model.pt", pickle_protocol=protocol)  # fmt: skip
    torch.save(torch.nn.ParameterDict({"*": ROWS}), tmp_path / "dict.pt", pickle_protocol=protocol)
    torch.save(torch.nn.ParameterList([ROWS]), tmp_path / "list.pt", pickle_protocol=protocol)
    assert torch.equal(vectors(tmp_path, "dict"), ROWS)
    assert torch.equal(vectors(tmp_path, "list"), ROWS)
    assert "a LoRA or a model" in reason(tmp_path, "model")


def test_numbered_tokens_are_one_embedding_of_several_vectors(tmp_path: Path) -> None:
    rows = torch.arange(12.0 * WIDTH).reshape(12, WIDTH)
    names = ["<x>", *(f"<x>_{number}" for number in range(1, 12))]
    save_file({name: rows[index].clone() for index, name in enumerate(names)},
              tmp_path / "flat.safetensors")  # fmt: skip
    torch.save({name: rows[index] for index, name in enumerate(names)}, tmp_path / "pickled.pt")
    for file in ("flat", "pickled"):
        found = load(tmp_path, file)
        assert isinstance(found, Embedding)
        assert torch.equal(found.vectors, rows)
        assert not found.note


def test_tokens_numbered_from_zero_are_one_embedding(tmp_path: Path) -> None:
    torch.save({f"<x>_{number}": ROWS[number] for number in range(3)}, tmp_path / "e.pt")
    assert torch.equal(vectors(tmp_path), ROWS)


def test_a_number_that_is_missing_ends_the_embedding_and_the_rest_is_named(tmp_path: Path) -> None:
    torch.save({"<x>": ROWS[0], "<x>_1": ROWS[1], "<x>_3": ROWS[2]}, tmp_path / "e.pt")
    found = load(tmp_path)
    assert isinstance(found, Embedding)
    assert torch.equal(found.vectors, ROWS[:2])
    assert "also holds '<x>_3'" in found.note


def test_other_embeddings_of_a_file_are_said_to_be_left_out() -> None:
    found = recorded("embedding_two_tokens")
    assert isinstance(found, Embedding), found
    assert found.vectors.shape == (1, 1024)
    assert found.note == (
        "its file also holds '<s2>', which are left out: save each embedding to its own file"
    )


def test_what_is_left_out_is_a_warning_of_the_text(tmp_path: Path) -> None:
    tokenizer = SD2Tokenizer([str(DATA / "embeddings")])
    tokens = tokenizer.clip_h.tokenize("embedding:embedding_two_tokens")
    assert any("'<s2>'" in warning for warning in tokens.warnings)


@pytest.mark.parametrize(("name", "why"), [
    ("emb_selfref.pt", "or itself: it is not a textual inversion"),
    ("emb_repeat_500k.pt", "holds more than 10,000 values"),
    ("emb_null.png", "its embedding is damaged"),
    ("legacy_proto_bigint.pt", "it does not have torch's protocol 1001"),
])  # fmt: skip
@pytest.mark.slow
def test_a_hostile_file_is_refused_in_one_sentence(name: str, why: str) -> None:
    found = recorded(name)
    assert isinstance(found, Unusable), found
    assert why in found.reason
    assert len(found.reason) < 1000


def test_more_vectors_than_a_text_can_take_are_refused_before_they_are_built(
    tmp_path: Path,
) -> None:
    torch.save({"emb_params": torch.ones(1, WIDTH).expand(20_000, WIDTH)}, tmp_path / "e.pt")
    assert reason(tmp_path) == ("it has 20,000 vectors; a textual inversion has at most 10,000")


def test_a_tensor_that_repeats_its_value_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    torch.save({"emb_params": torch.ones(1, WIDTH).expand(9_000_000, WIDTH)}, tmp_path / "e.pt")
    assert "bytes of tensors; the limit here is" in reason(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": ' * 900 + "1" + "}" * 900, "too deep"),
        ('[{"TORCHTENSOR": []}' + ', {"TORCHTENSOR": []}' * 20_000 + "]", "more tensors than"),
        ("[" + "1.5, " * 2_000_000 + "1]", "bytes are read"),
    ],
    ids=["deep", "tensors", "large"],
)
def test_json_in_a_picture_is_bounded(text, words, tmp_path):
    data = b"sd-ti-embedding\0\0" + zlib.compress(base64.b64encode(text.encode()))
    png(tmp_path / "e.png", (b"zTXt", data))
    assert words in reason(tmp_path)
