"""What a saved conditioning says about how it was made."""

import copy
import gc
import json
import pickle
import weakref

import layouts
import pytest
import torch
from core_conditioning import read_core, write_core
from safetensors import safe_open
from safetensors.torch import save_file
from sd2_clip.clip import provenance
from sd2_clip.clip.conditioning_file import load_conditioning, save_numbered
from sd2_clip.clip.encode_options import ENCODE_OPTIONS
from sd2_clip.clip.encode_text import encode_text
from sd2_clip.clip.load_clip import load_clip
from sd2_clip.sd2.lora.lora_file import read_lora

TEXT = "a (cat:1.2) and embedding:style"


@pytest.fixture
def clip(standalone, tmp_path):
    """A tiny encoder, and a textual inversion of two vectors beside it."""
    models = tmp_path / "models"
    layouts.save_safetensors(layouts.canonical_encoder(), models / "clip/sd2.safetensors")
    rows = torch.randn(2, layouts.TINY_CONFIG["hidden_size"])
    layouts.save_safetensors({"emb_params": rows}, models / "embeddings/style.safetensors")
    return loaded(tmp_path)


def loaded(tmp_path, **options):
    return load_clip(
        tmp_path / "models/clip/sd2.safetensors",
        device="cpu",
        model_options={"clip_h_model_config": layouts.TINY_CONFIG},
        **options,
    )


def records(folder, conditioning, workflow=()):
    path = save_numbered(folder / "output", "x", conditioning, dict(workflow))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata.pop("conditioning_options", None)
    entries = json.loads(metadata.pop("sd2_clip"))["entries"]
    return [entry["options"]["sd2_clip"] for entry in entries], metadata


def test_a_saved_file_says_how_it_was_made(clip, tmp_path):
    conditioning = encode_text(clip, TEXT, stop_at_clip_layer=-2).conditioning
    [record], metadata = records(tmp_path, conditioning, {"prompt": "{}", "workflow": "[]"})
    assert metadata == {"prompt": "{}", "workflow": "[]"}
    assert record["text"] == record["part"] == TEXT
    assert record["layer"].startswith("layer 3 of 4")
    assert record["dtype"] == "float32"
    assert record["weights"]["tensors_sha256"] == clip.cond_stage_model.source.digest()
    assert [one["name"] for one in record["embeddings"]] == ["style"]
    assert len(record["embeddings"][0]["sha256"]) == 64
    assert "changed_since_encoding" not in record
    assert {"version", "warnings", "ignored"} <= set(record)


def test_every_option_is_recorded(clip, tmp_path):
    options = {"syntax": "a1111", "weight_interpretation": "compel", "token_normalization": "mean",
               "stop_at_clip_layer": -3, "steps": 7, "chunk_split": "words",
               "padding": "none"}  # fmt: skip
    [record], _ = records(tmp_path, encode_text(clip, "a (cat:1.2)", **options).conditioning)
    assert set(ENCODE_OPTIONS) <= set(record)
    assert {name: record[name] for name in options} == options


def test_each_prompt_of_a_text_is_recorded(clip, tmp_path):
    conditioning = encode_text(clip, "[cat|dog]", syntax="a1111", steps=3).conditioning
    found, _ = records(tmp_path, conditioning)
    assert [(record["text"], record["part"]) for record in found] == [
        ("[cat|dog]", "cat"), ("[cat|dog]", "dog"), ("[cat|dog]", "cat")
    ]  # fmt: skip


def test_the_record_is_text_that_names_the_file_without_hashing_weights(clip, monkeypatch):
    monkeypatch.setattr(type(clip.cond_stage_model.source), "digest", None)
    [(_, options)] = encode_text(clip, TEXT).conditioning
    assert isinstance(options["sd2_clip"], str)
    weights = json.loads(options["sd2_clip"])["weights"]
    path = clip.cond_stage_model.source.detection.path
    assert (weights["file"], weights["bytes"]) == (str(path), path.stat().st_size)
    assert len(weights["header_sha256"]) == 64
    assert "tensors_sha256" not in weights


def test_files_with_other_headers_have_other_fingerprints(clip, tmp_path):
    path = tmp_path / "models/clip/sd2.safetensors"
    first = clip.cond_stage_model.source.header_sha256
    assert loaded(tmp_path).cond_stage_model.source.header_sha256 == first
    save_file(layouts.canonical_encoder(), path, {"made": "again"})
    assert loaded(tmp_path).cond_stage_model.source.header_sha256 != first


def test_changes_of_weights_are_hashed_once_for_a_prompt_that_comes_back(
    clip, tmp_path, monkeypatch
):
    conditioning = encode_text(clip, "[cat|dog]", syntax="a1111", steps=9).conditioning
    written = []
    source = type(clip.cond_stage_model.source)
    digest = source.digest
    monkeypatch.setattr(source, "digest", lambda self: written.append(self) or digest(self))
    records(tmp_path, conditioning)
    assert len(written) == 2


def test_a_loaded_record_is_text_and_is_saved_as_it_was(clip, tmp_path):
    [before], _ = records(tmp_path, encode_text(clip, TEXT).conditioning)
    [path] = tmp_path.rglob("x_00001_.safetensors")
    [(cond, options)] = load_conditioning(path)
    assert isinstance(options["sd2_clip"], str)
    [after], _ = records(tmp_path, [[cond, options]])
    assert before == after


@pytest.mark.parametrize("text", ["no JSON", "[1]", ""])
def test_a_record_of_another_program_is_kept(text, tmp_path):
    save_numbered(tmp_path, "x", [[torch.zeros(1, 2, 3), {provenance.RECORD_KEY: text}]], {})
    [(_, options)] = load_conditioning(tmp_path / "x_00001_.safetensors")
    assert options == {provenance.RECORD_KEY: text}


def test_conditioning_does_not_hold_the_text_encoder(clip):
    conditioning = encode_text(clip, TEXT).conditioning
    model = weakref.ref(clip.cond_stage_model)
    again = pickle.loads(pickle.dumps(copy.deepcopy(conditioning)))
    assert type(again[0][1]["sd2_clip"]) is str
    assert json.loads(again[0][1]["sd2_clip"])["text"] == TEXT
    clip.__dict__.clear()
    gc.collect()
    assert model() is None


def test_the_record_names_the_type_that_weights_are_stored_in(clip, tmp_path):
    [(_, options)] = encode_text(loaded(tmp_path, dtype="fp16"), TEXT).conditioning
    assert json.loads(options["sd2_clip"])["dtype"] == "float16"


def test_a_lora_is_part_of_the_record(clip, standalone, tmp_path):
    inner, rank = layouts.TINY_CONFIG["hidden_size"], 2
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    shapes = {name: tuple(t.shape) for name, t in clip.cond_stage_model.state_dict().items()}

    def weights(seed: int) -> dict[str, object]:
        torch.manual_seed(seed)
        path = tmp_path / "models/loras/style.safetensors"
        lora = {
            f"{name}.lora_down.weight": torch.randn(rank, inner),
            f"{name}.lora_up.weight": torch.randn(inner, rank),
            f"{name}.alpha": torch.tensor(2.0),
        }
        layouts.save_safetensors(lora, path)
        patched = clip.clone()
        patched.add_patches(standalone.lora_patches(read_lora(path, shapes).changes), 0.5)
        [record], _ = records(tmp_path, encode_text(patched, TEXT).conditioning)
        found: dict[str, object] = record["weights"]
        return found

    first, again, other = weights(1), weights(1), weights(2)
    assert first == again
    assert first["patched_tensors"] == 1
    assert (
        first["tensors_sha256"] == other["tensors_sha256"] == clip.cond_stage_model.source.digest()
    )
    assert first["patches_sha256"] != other["patches_sha256"]


def test_comfyui_saves_every_encoding_and_the_record_comes_back(clip, tmp_path):
    [(cond, options)] = encode_text(clip, TEXT, stop_at_clip_layer=-2).conditioning
    write_core(tmp_path / "core.safetensors", [[cond, options]])
    [(again, loaded_options)] = load_conditioning(tmp_path / "core.safetensors")
    assert torch.equal(again, cond)
    assert loaded_options["sd2_clip"] == options["sd2_clip"]
    for conditioning in encode_text(clip, "[a|b] AND c", syntax="a1111", steps=4).conditioning:
        write_core(tmp_path / "core.safetensors", [conditioning])


def test_comfyui_reads_the_record_with_the_weights_digest(clip, tmp_path):
    path = save_numbered(tmp_path, "x", encode_text(clip, TEXT).conditioning, {})
    [(_, options)] = read_core(path)
    weights = json.loads(options["sd2_clip"])["weights"]
    assert weights["tensors_sha256"] == clip.cond_stage_model.source.digest()
    assert weights["patches_sha256"] is None
