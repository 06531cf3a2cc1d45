"""The nodes, called as an executor calls them, on a standalone host."""

import copy
import gc
import json
import pickle
import re
import weakref

import layouts
import pytest
import torch
from safetensors import safe_open
from sd2_clip import NODE_CLASS_MAPPINGS
from sd2_clip.clip import load_clip
from sd2_clip.clip.conditioning_file import ConditioningError
from sd2_clip.clip.encode_text import WrongClipError
from sd2_clip.host.model_folders import ModelNotFoundError

TEXT = "a (cat:1.2) and embedding:style"


@pytest.fixture
def nodes():
    return {name: node() for name, node in NODE_CLASS_MAPPINGS.items()}


@pytest.fixture
def clip(standalone, tmp_path, monkeypatch):
    """A tiny encoder, and a textual inversion of two vectors beside it."""
    models = tmp_path / "models"
    layouts.save_safetensors(layouts.canonical_encoder(), models / "clip/sd2.safetensors")
    rows = torch.randn(2, layouts.TINY_CONFIG["hidden_size"])
    layouts.save_safetensors({"emb_params": rows}, models / "embeddings/style.safetensors")
    return load_clip.load_clip(
        models / "clip/sd2.safetensors",
        device="cpu",
        model_options={"clip_h_model_config": layouts.TINY_CONFIG},
    )


def test_encode_gives_conditioning_and_a_report(nodes, clip):
    conditioning, report = nodes["EncodeSD2Text"].encode(clip, TEXT)
    ((cond, options),) = conditioning
    tokens = clip.tokenize(TEXT)
    expected, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    torch.testing.assert_close(cond, expected)
    torch.testing.assert_close(options["pooled_output"], pooled)
    assert report.startswith("5 tokens, 1 chunk of 77")
    assert "style (2 vectors)" in report


@pytest.mark.parametrize("layer", [-4, -1])
def test_stop_at_clip_layer_is_clip_set_last_layer(layer, nodes, clip):
    ((cond, _),), _ = nodes["EncodeSD2Text"].encode(clip, TEXT, stop_at_clip_layer=layer)
    other = clip.clone()
    other.clip_layer(layer)
    torch.testing.assert_close(cond, other.encode(TEXT))
    assert clip.layer_idx is None  # the handle that came in is as it was


def test_an_empty_clip_input_is_explained(nodes):
    with pytest.raises(WrongClipError, match="Load SD2 CLIP"):
        nodes["EncodeSD2Text"].encode(None, TEXT)


def test_an_input_that_is_no_clip_is_named(nodes):
    with pytest.raises(WrongClipError, match="a str, not a CLIP"):
        nodes["InspectSD2Text"].inspect("text", TEXT)


def test_another_models_clip_is_named(nodes, clip):
    class SDXLClipModel:
        pass

    class SDXLTokenizer:
        def __init__(self):
            self.clip_l, self.clip_g = object(), object()

    class Handle:
        cond_stage_model = SDXLClipModel()
        tokenizer = SDXLTokenizer()

    with pytest.raises(WrongClipError, match=r"SDXLClipModel \(clip_g, clip_l\)"):
        nodes["EncodeSD2Text"].encode(Handle(), TEXT)


def test_inspect_shows_every_token_in_order(nodes, clip):
    result = nodes["InspectSD2Text"].inspect(clip, TEXT)
    (table,) = result["result"]
    assert result["ui"]["text"] == [table]
    rows = [line.split() for line in table.split("weight  text\n")[1].splitlines()]
    assert [row[3] for row in rows] == [
        "a", "cat", "and", "embedding:style[1/2]", "embedding:style[2/2]"
    ]  # fmt: skip
    assert [row[2] for row in rows] == ["1", "1.2", "1", "1", "1"]


def saved(nodes, conditioning, standalone, prefix="conditioning/sd2", **hidden):
    ui = nodes["SaveSD2Conditioning"].save(conditioning, prefix, **hidden)["ui"]
    (entry,) = ui["conditioning"]
    return standalone.output_directory() / entry["subfolder"] / entry["filename"]


def test_saved_conditioning_comes_back_as_it_was(nodes, clip, standalone):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    options = {
        "pooled_output": conditioning[0][1]["pooled_output"],
        "start_percent": 0.0,
        "area": (1, 2, 3),
        "reference_latents": [torch.ones(1, 2), torch.zeros(3)],
        "cond": torch.arange(9),
        "0.cond": torch.arange(4),
        "limits": {"low": float("-inf"), 3: [None, True, ("a", {"$tensor": "no tensor"})]},
        "text": "half a pair \ud83d",
    }
    conditioning = [[conditioning[0][0], options], [torch.randn(1, 154, 32).half(), {}]]
    path = saved(nodes, conditioning, standalone)
    name = path.relative_to(standalone.output_directory()).as_posix()
    (loaded,) = nodes["LoadSD2Conditioning"].load(f"{name} [output]")
    torch.testing.assert_close([cond for cond, _ in loaded], [cond for cond, _ in conditioning])
    found = loaded[0][1]
    assert list(found) == list(options)
    for key, value in options.items():
        if key in ("limits", "text", "start_percent", "area"):
            assert found[key] == value
            assert type(found[key]) is type(value)
        else:
            torch.testing.assert_close(found[key], value)


def test_a_damaged_file_is_named(nodes, standalone, tmp_path):
    from safetensors.torch import save_file

    for about in ('{"format": "sd2_clip.conditioning/1"}', "[", "[]", '{"format": 3}'):
        save_file({"0.cond": torch.zeros(2)}, tmp_path / "bad.safetensors", {"sd2_clip": about})
        with pytest.raises(ConditioningError, match=r"bad\.safetensors"):
            nodes["LoadSD2Conditioning"].load("bad.safetensors")


def test_a_saved_file_says_how_it_was_made(nodes, clip, standalone):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT, stop_at_clip_layer=-2)
    path = saved(nodes, conditioning, standalone, prompt={"1": {}}, extra_pnginfo={"workflow": {}})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["prompt"], metadata["workflow"]) == ('{"1": {}}', "{}")
    (entry,) = json.loads(metadata["sd2_clip"])["entries"]
    record = entry["options"]["sd2_clip"]
    assert record["text"] == TEXT
    assert record["layer"].startswith("layer 3 of 4")
    assert record["dtype"] == "float32"
    assert record["weights"]["tensors_sha256"] == clip.cond_stage_model.source.digest()
    assert [one["name"] for one in record["embeddings"]] == ["style"]
    assert len(record["embeddings"][0]["sha256"]) == 64
    assert record["changed_since_encoding"] is False
    assert {"syntax", "version", "warnings", "ignored"} <= set(record)


def test_a_host_may_keep_workflows_out_of_files(nodes, clip, standalone, monkeypatch):
    monkeypatch.setattr(standalone, "embeds_workflows", lambda: False)
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    path = saved(nodes, conditioning, standalone, prompt={"1": {}}, extra_pnginfo={"workflow": {}})
    with safe_open(path, framework="pt") as file:
        assert set(file.metadata()) == {"sd2_clip"}


def test_a_conditioning_that_was_changed_on_the_way_says_so(nodes, clip, standalone):
    ((cond, options),), _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    path = saved(nodes, [[cond * 0.5, options]], standalone)
    with safe_open(path, framework="pt") as file:
        (entry,) = json.loads(file.metadata()["sd2_clip"])["entries"]
    assert entry["options"]["sd2_clip"]["changed_since_encoding"] is True


def test_every_save_takes_the_next_number(nodes, clip, standalone):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    names = [saved(nodes, conditioning, standalone, "mine").name for _ in range(2)]
    assert names == ["mine_00001_.safetensors", "mine_00002_.safetensors"]
    leftovers = list(standalone.output_directory().rglob("*.partial"))
    assert leftovers == []


@pytest.mark.parametrize(
    "prefix", ["../out", "/tmp/out", "a/../../../out", "", ".", "a/..", "a:b", "C:/x"]
)
def test_nothing_is_saved_outside_the_output_folder(prefix, nodes, clip, standalone):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    with pytest.raises(ConditioningError, match="leads out of the output folder"):
        nodes["SaveSD2Conditioning"].save(conditioning, prefix)
    assert list(standalone.output_directory().parent.rglob("*_00001_*")) == []


def test_an_output_folder_may_be_named_by_a_detour(nodes, clip, standalone, tmp_path):
    standalone._output = tmp_path / "models" / ".." / "output"
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    assert saved(nodes, conditioning, standalone).exists()


def test_a_number_that_another_took_meanwhile_is_not_taken_again(
    nodes, clip, standalone, monkeypatch
):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    first = saved(nodes, conditioning, standalone)
    before = first.read_bytes()
    # A fake of the race: the other's file appears after the folder was listed.
    monkeypatch.setattr("os.listdir", lambda _folder: [])
    second = saved(nodes, conditioning, standalone)
    assert second.name == "sd2_00002_.safetensors"
    assert first.read_bytes() == before


def test_the_date_may_be_part_of_the_prefix(nodes, clip, standalone):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    path = saved(nodes, conditioning, standalone, "sd2_%year%-%month%")
    assert re.fullmatch(r"sd2_\d{4}-\d\d_00001_\.safetensors", path.name)


def test_conditioning_does_not_hold_the_text_encoder(nodes, clip):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    model = weakref.ref(clip.cond_stage_model)
    again = pickle.loads(pickle.dumps(copy.deepcopy(conditioning)))
    assert again[0][1]["sd2_clip"]["text"] == TEXT
    clip.__dict__.clear()
    gc.collect()
    assert model() is None


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("LoadSD2CLIP", {"clip_name": None, "device": None}),
        ("LoadSD2CLIPLora", {"lora_name": None}),
        ("LoadSD2Conditioning", {"conditioning_name": None}),
    ],
)
def test_a_name_that_comes_by_a_link_is_checked_when_it_is_known(name, inputs, standalone):
    node = NODE_CLASS_MAPPINGS[name]
    assert node.VALIDATE_INPUTS(**inputs) is True
    changed = node.IS_CHANGED(**inputs)
    assert changed != changed  # nan: it is run each time


def test_what_json_cannot_hold_is_named(nodes, clip):
    conditioning, _ = nodes["EncodeSD2Text"].encode(clip, TEXT)
    conditioning[0][1]["control"] = object()
    with pytest.raises(ConditioningError, match="'control' is a object"):
        nodes["SaveSD2Conditioning"].save(conditioning, "x")


def test_a_safetensors_file_that_is_no_conditioning_is_named(nodes, standalone, tmp_path):
    layouts.save_safetensors({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ConditioningError, match="no conditioning saved by Save SD2 Conditioning"):
        nodes["LoadSD2Conditioning"].load("other.safetensors")


def test_conditioning_outside_the_folders_is_not_found(nodes, standalone):
    with pytest.raises(ModelNotFoundError):
        nodes["LoadSD2Conditioning"].load("../secret.safetensors [output]")
    message = NODE_CLASS_MAPPINGS["LoadSD2Conditioning"].VALIDATE_INPUTS("gone.safetensors")
    assert "gone.safetensors" in message


def test_an_edited_embedding_changes_the_encoders_identity(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["EncodeSD2Text"]
    texts = [TEXT, "a cat", None]
    before = [node.IS_CHANGED(text=text) for text in texts]
    a1111 = node.IS_CHANGED(text="a style", syntax="a1111")
    rows = torch.randn(3, 1024)
    layouts.save_safetensors({"x": rows}, tmp_path / "models/embeddings/style.safetensors")
    after = [node.IS_CHANGED(text=text) for text in texts]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, False]
    assert node.IS_CHANGED(text="a style", syntax="a1111") != a1111  # any word may name one


def test_an_edited_embedding_behind_a_link_is_noticed(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["EncodeSD2Text"]
    (tmp_path / "elsewhere").mkdir()
    layouts.save_safetensors({"x": torch.zeros(2)}, tmp_path / "elsewhere/far.safetensors")
    (tmp_path / "models/embeddings/linked").symlink_to(tmp_path / "elsewhere")
    before = node.IS_CHANGED(text=None)
    layouts.save_safetensors({"x": torch.zeros(3)}, tmp_path / "elsewhere" / "far.safetensors")
    assert node.IS_CHANGED(text=None) != before


def test_a_replaced_file_changes_the_loaders_identity(clip, tmp_path):
    node = NODE_CLASS_MAPPINGS["LoadSD2CLIP"]
    before = node.IS_CHANGED("sd2.safetensors", layer="last")
    assert before == node.IS_CHANGED("sd2.safetensors", layer="last")
    layouts.save_safetensors({"x": torch.zeros(1)}, tmp_path / "models/clip/sd2.safetensors")
    assert node.IS_CHANGED("sd2.safetensors", layer="last") != before


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({"clip_name": "sd2.safetensors"}, None),
        ({"clip_name": ".\\sd2.safetensors", "device": "gpu:7"}, None),
        ({"clip_name": "gone.ckpt"}, "none of the model folders"),
        ({"clip_name": "sd2.safetensors", "device": "tpu"}, "Choose auto, cpu"),
    ],
)
def test_the_loader_checks_names_and_devices_itself(inputs, fault, clip):
    verdict = NODE_CLASS_MAPPINGS["LoadSD2CLIP"].VALIDATE_INPUTS(**inputs)
    assert verdict is True if fault is None else fault in verdict


def test_the_record_names_the_type_that_weights_are_stored_in(clip, nodes, tmp_path):
    half = load_clip.load_clip(
        tmp_path / "models/clip/sd2.safetensors",
        device="cpu",
        dtype="fp16",
        model_options={"clip_h_model_config": layouts.TINY_CONFIG},
    )
    ((_, options),), _ = nodes["EncodeSD2Text"].encode(half, TEXT)
    assert options["sd2_clip"].as_json()["dtype"] == "float16"


def test_a_lora_is_part_of_the_record(nodes, clip, standalone, tmp_path):
    inner, rank = layouts.TINY_CONFIG["hidden_size"], 2
    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"

    def record(seed: int) -> dict[str, object]:
        torch.manual_seed(seed)
        lora = {
            f"{name}.lora_down.weight": torch.randn(rank, inner),
            f"{name}.lora_up.weight": torch.randn(inner, rank),
            f"{name}.alpha": torch.tensor(2.0),
        }
        layouts.save_safetensors(lora, tmp_path / "models/loras/style.safetensors")
        patched, _ = nodes["LoadSD2CLIPLora"].load(clip, "style.safetensors", 0.5)
        conditioning, _ = nodes["EncodeSD2Text"].encode(patched, TEXT)
        with safe_open(saved(nodes, conditioning, standalone), framework="pt") as file:
            (entry,) = json.loads(file.metadata()["sd2_clip"])["entries"]
        weights: dict[str, object] = entry["options"]["sd2_clip"]["weights"]
        return weights

    first, again, other = record(1), record(1), record(2)
    assert first == again
    assert first["patched_tensors"] == 1
    assert (
        first["tensors_sha256"] == other["tensors_sha256"] == clip.cond_stage_model.source.digest()
    )
    assert first["patches_sha256"] != other["patches_sha256"]
