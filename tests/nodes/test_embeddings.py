"""The node that loads encoded captions of a data set."""

import json
import math
import os

import pytest
import tiny
import torch
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.dataset import CaptionEncoder, EncodedCaptions
from sd2_clip.dataset import encoded_captions as reader
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.manifest import IncompleteError
from sd2_clip.headless.execution.executor import Executor
from sd2_clip.headless.validation.validate import validate
from sd2_clip.headless.workflow import read_prompt
from sd2_clip.host.model_folders import ModelNotFoundError
from sd2_clip.sd2.errors import OptionError

NODE = NODE_CLASS_MAPPINGS["LoadSD2Embeddings"]
FILE = tiny.GOLDEN / "tiny_text_encoder.safetensors"
TEXTS = ["a cat", "a dog", "", "a (fox:1.5)"]


@pytest.fixture
def write(standalone):
    """Encodes captions into a folder of the output folder."""

    def encode(texts=TEXTS, name="sets/cats", format="safetensors", store="fp16", pooled=False):
        if format == "parquet":
            pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
        out = standalone.output_directory() / name
        source = standalone.output_directory() / "captions.txt"
        source.parent.mkdir(exist_ok=True)
        source.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        encoder = CaptionEncoder(
            FILE, device="cpu", store=store, pooled=pooled, model_options=tiny.MODEL_OPTIONS
        )
        encode_captions(str(source), str(out), encoder, make_format(format))
        return out

    return encode


def key(number):
    return f"captions.txt:{number}"


def load(name="sets/cats [output]", keys=""):
    loaded = NODE().load(name, keys)
    return loaded["result"][0], loaded["ui"]["text"]


@pytest.mark.parametrize(
    ("format", "store"), [("parquet", "fp16"), ("safetensors", "fp16"), ("safetensors", "bf16")]
)
def test_every_caption_is_a_conditioning(format, store, write):
    captions = EncodedCaptions(write(format=format, store=store, pooled=True))
    found, text = load()
    assert text == ["loaded 4 of 4 captions"]
    assert len(found) == 4
    for [[cond, options]], row in zip(found, captions, strict=True):
        assert (cond.dtype, cond.shape) == (torch.float32, (1, 77, 32))
        assert torch.equal(cond[0], row["caption_latents"].float())
        assert torch.equal(options["pooled_output"][0], row["caption_pooled"].float())
        record = json.loads(options["sd2_clip"])
        assert (record["text"], record["key"]) == (row["caption"], row["key"])
        assert record["encoded_captions"]["layer"] == "3 of 4, final layer norm applied"


def test_without_pooled_vectors_there_are_none(write):
    write()
    found, _ = load()
    assert "pooled_output" not in found[0][0][1]


def test_keys_choose_captions_and_their_order(write):
    write()
    found, text = load(keys=f"{key(3)}\n\n {key(0)} \r\n{key(3)}")
    assert text == ["loaded 3 of 4 captions"]
    texts = [json.loads(options["sd2_clip"])["text"] for [[_, options]] in found]
    assert texts == ["a (fox:1.5)", "a cat", "a (fox:1.5)"]


def test_without_keys_the_first_hundred_are_loaded(write):
    write([f"{number} cats" for number in range(120)])
    found, text = load()
    assert len(found) == 100
    assert text == ["loaded 100 of 120 captions"]
    assert len(load(keys="\n".join(map(key, range(120))))[0]) == 120


def test_an_unknown_key_is_named_beside_known_ones(write):
    write()
    with pytest.raises(OptionError, match=r"key 'cat.png'.*It has 'captions.txt:0', .* and 1 more"):
        load(keys=f"{key(1)}\ncat.png")


def test_the_list_holds_the_sets_of_both_folders(write, standalone):
    write()
    (standalone.output_directory() / "other").mkdir()
    (standalone.output_directory() / "other/manifest.json").write_text("{}")
    os.rename(write(name="moved"), standalone.input_directory() / "mine")
    choices, _ = NODE.INPUT_TYPES()["required"]["folder"]
    assert "sets/cats [output]" in choices
    assert "mine" in choices
    assert "other [output]" not in choices
    assert NODE.VALIDATE_INPUTS("mine") is True
    assert NODE.VALIDATE_INPUTS("sets\\cats [output]") is True
    assert len(load("mine")[0]) == 4


def test_a_folder_outside_is_not_found(write, tmp_path):
    outside = tmp_path.with_name(f"{tmp_path.name}-outside")
    os.rename(write(), outside)
    for name in ("gone", f"../{outside.name}", str(outside), f"../../{outside.name} [output]"):
        assert "is not in" in NODE.VALIDATE_INPUTS(name)
        with pytest.raises(ModelNotFoundError):
            load(name)
    assert NODE.VALIDATE_INPUTS(None) is True  # linked


def test_what_is_no_complete_set_is_explained(write, standalone):
    out = write()
    manifest = json.loads((out / "manifest.json").read_text())
    folder = standalone.output_directory() / "broken"
    folder.mkdir()
    assert "no complete set" in NODE.VALIDATE_INPUTS("broken [output]")
    for text in ("{", "[]", '{"settings": {}}', json.dumps(manifest | {"settings": 1})):
        (folder / "manifest.json").write_text(text)
        assert "no complete set" in NODE.VALIDATE_INPUTS("broken [output]")
    settings = manifest["settings"] | {"file_format": "mds"}
    (folder / "manifest.json").write_text(json.dumps(manifest | {"settings": settings}))
    assert "format mds" in NODE.VALIDATE_INPUTS("broken [output]")


def test_a_manifest_leads_nowhere_else(write):
    out = write()
    manifest = json.loads((out / "manifest.json").read_text())
    name = f"../cats/{manifest['fragments'][0][0]}"
    (out / "manifest.json").write_text(json.dumps(manifest | {"fragments": [[name, 4]]}))
    with pytest.raises(IncompleteError, match="not a file of that folder"):
        load()


def test_parquet_without_pyarrow_is_named(write, monkeypatch):
    write(format="parquet")
    monkeypatch.setattr(reader, "find_spec", lambda name: None)
    assert "needs pyarrow" in NODE.VALIDATE_INPUTS("sets/cats [output]")


def test_a_folder_that_is_encoded_again_is_loaded_again(write):
    out = write()
    before = NODE.IS_CHANGED("sets/cats [output]", keys="")
    assert NODE.IS_CHANGED("sets/cats [output]") == before
    manifest = out / "manifest.json"
    os.replace(write(["another"], name="sets/dogs") / "manifest.json", manifest)
    assert NODE.IS_CHANGED("sets/cats [output]") != before
    assert math.isnan(NODE.IS_CHANGED(None))


def test_each_conditioning_is_saved_on_its_own(write, standalone):
    write()
    prompt = {
        "1": {
            "class_type": "LoadSD2Embeddings",
            "inputs": {"folder": "sets/cats [output]", "keys": ""},
        },
        "2": {
            "class_type": "SaveSD2Conditioning",
            "inputs": {"conditioning": ["1", 0], "filename_prefix": "kept/one"},
        },
    }
    validation = validate(read_prompt(prompt, NODE_CLASS_MAPPINGS))
    assert validation.lines() == []
    execution = Executor().execute(validation)
    assert execution.error is None, str(execution.error)
    assert len(list((standalone.output_directory() / "kept").glob("*.safetensors"))) == 4
