"""Data sets on disk: nothing twice, nothing lost, and never a mixture of two encoders."""

import json
import shutil

import pytest
import tiny
import torch
from safetensors import safe_open
from sd2_clip.dataset import CaptionEncoder, EncodedCaptions
from sd2_clip.dataset.captions import Caption
from sd2_clip.dataset.reader import IncompleteError
from sd2_clip.dataset.shards import OtherSettingsError, Part, encode_captions, shard_path
from sd2_clip.sd2.errors import OptionError

FILE = tiny.GOLDEN / "tiny_text_encoder.safetensors"
TEXTS = [f"picture {number % 37} of (a cat:1.5)" for number in range(50)] + ["", "word " * 80]
CAPTIONS = [Caption(f"{number}.png", text) for number, text in enumerate(TEXTS)]
DISTINCT = 37 + 2


@pytest.fixture
def encoder():
    return new_encoder()


def new_encoder(**options):
    options = {"device": "cpu", "dtype": "fp32", "store": "fp16"} | options
    encoder = CaptionEncoder(FILE, model_options=tiny.MODEL_OPTIONS, **options)
    encoder.encoded = []
    encode = encoder.encode

    def recorded(captions):
        encoder.encoded.extend(captions)
        return encode(captions)

    encoder.encode = recorded
    return encoder


def encode(out, encoder, captions=CAPTIONS, **options):
    return encode_captions(captions, out, encoder, **({"shard_size": 8} | options))


def files(out):
    """All files by name: text as it is, tensors by their numbers and what they were made from."""
    return {path.name: content(path) for path in sorted(out.iterdir()) if path.is_file()}


def content(path):
    if path.suffix != ".safetensors":
        return path.read_text()
    with safe_open(path, "pt") as file:  # which writes its metadata in any order
        tensors = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118
        return tensors, file.metadata()


def test_every_caption_is_found_with_its_own_embedding(tmp_path, encoder):
    summary = encode(tmp_path, encoder, part=Part(1, 1))
    assert (summary.captions, summary.distinct, summary.encoded) == (52, DISTINCT, DISTINCT)
    assert (summary.shards, summary.truncated, summary.longest) == (5, 1, 80)
    found = EncodedCaptions(tmp_path)
    assert len(found) == 52
    assert found.keys == [caption.key for caption in CAPTIONS]
    for caption, one in zip(CAPTIONS, found, strict=True):
        assert (one["key"], one["caption"]) == (caption.key, caption.text)
        (ids,) = encoder.tokenize([caption.text])
        assert (one["tokens"], one["truncated"]) == (len(ids), len(ids) > 75)
        (expected,) = encoder.encode([ids])["caption_latents"]
        torch.testing.assert_close(one["caption_latents"], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.empty["caption_latents"], found[50]["caption_latents"])


def test_a_caption_is_encoded_once(tmp_path, encoder):
    encode(tmp_path, encoder)
    assert len(encoder.encoded) == len({tuple(ids) for ids in encoder.encoded}) == DISTINCT


def test_captions_that_differ_behind_the_cut_share_a_row(tmp_path, encoder):
    texts = ["word " * 80, "word " * 75 + "else", "word " * 75]
    summary = encode(tmp_path, encoder, [Caption(text[-9:], text) for text in texts])
    assert (summary.distinct, summary.truncated) == (2, 2)


def test_beginning_again_does_only_what_is_left(tmp_path, encoder):
    whole = encoder.encode

    def stop(captions):
        if len(encoder.encoded) >= 24:
            raise KeyboardInterrupt
        return whole(captions)

    encoder.encode = stop
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path, encoder)
    assert sorted(files(tmp_path))[-1] == "manifest.json"  # no index of what is not there
    shards = len(list(tmp_path.glob("*.safetensors")))
    assert shards >= 2
    with pytest.raises(IncompleteError, match="goes on where it stopped"):
        EncodedCaptions(tmp_path)
    rest = new_encoder()
    assert encode(tmp_path, rest).encoded == DISTINCT - 8 * shards
    assert len(rest.encoded) == DISTINCT - 8 * shards
    encode(tmp_path / "in one go", new_encoder())
    assert files(tmp_path) == files(tmp_path / "in one go")


def test_done_again_nothing_is_encoded_and_nothing_changes(tmp_path, encoder):
    encode(tmp_path, encoder)
    before = files(tmp_path)
    again = new_encoder()
    assert encode(tmp_path, again).encoded == 0
    assert again.encoded == []
    assert files(tmp_path) == before


def test_more_captions_cost_only_themselves(tmp_path, encoder):
    encode(tmp_path, encoder)
    more = [*CAPTIONS, Caption("new", "something new")]
    again = new_encoder()
    encode(tmp_path, again, more)
    assert len(again.encoded) == 40 - 32  # the last shard, which was not full
    assert EncodedCaptions(tmp_path)[52]["key"] == "new"


def test_changed_captions_are_encoded_anew(tmp_path, encoder):
    encode(tmp_path, encoder)
    changed = [Caption(c.key, c.text.replace("cat", "dog")) for c in CAPTIONS]
    encode(tmp_path, new_encoder(), changed)
    (expected,) = encoder.encode(encoder.tokenize([changed[3].text]))["caption_latents"]
    found = EncodedCaptions(tmp_path)[3]["caption_latents"]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_a_damaged_shard_is_made_anew(tmp_path, encoder):
    encode(tmp_path, encoder)
    good = files(tmp_path)
    shard = shard_path(tmp_path, 2)
    shard.write_bytes(shard.read_bytes()[:-5])
    assert encode(tmp_path, new_encoder()).encoded == 8
    assert files(tmp_path) == good


def test_parts_make_the_whole(tmp_path, encoder):
    encode(tmp_path / "whole", encoder)
    summaries = [encode(tmp_path / "parts", new_encoder(), part=Part(i, 3)) for i in (3, 1, 2)]
    assert [summary.missing for summary in summaries] == [4, 2, 0]
    assert sum(summary.encoded for summary in summaries) == DISTINCT
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_part_that_is_missing_is_said_when_it_is_needed(tmp_path, encoder):
    encode(tmp_path, encoder, part=Part(1, 2))
    found = EncodedCaptions(tmp_path)
    assert found[0]["caption_latents"].shape == (77, 32)
    with pytest.raises(IncompleteError, match=r"captions-00001\.safetensors is not there"):
        found[10]


OTHER = {
    "layer": {"layer": "last"},
    "stored_in": {"store": "fp32"},
    "pooled": {"pooled": True},
    "weights_in": {"dtype": "fp16"},
}


@pytest.mark.parametrize("setting", OTHER)
def test_other_settings_never_mix(setting, tmp_path, encoder):
    encode(tmp_path, encoder)
    before = files(tmp_path)
    with pytest.raises(OtherSettingsError, match=f"{setting}: .*, now .*Choose another folder"):
        encode(tmp_path, new_encoder(**OTHER[setting]))
    assert files(tmp_path) == before


def test_other_weights_never_mix(tmp_path, encoder):
    encode(tmp_path, encoder)
    other = tiny.state_dict()
    other["text_model.final_layer_norm.bias"] += 1
    from safetensors.torch import save_file

    save_file(other, tmp_path.parent / "other.safetensors")
    theirs = CaptionEncoder(
        tmp_path.parent / "other.safetensors",
        model_options=tiny.MODEL_OPTIONS,
        device="cpu",
        dtype="fp32",
    )
    with pytest.raises(OtherSettingsError, match="weights_sha256"):
        encode(tmp_path, theirs)


def test_a_folder_with_another_manifest_is_left_alone(tmp_path, encoder):
    (tmp_path / "manifest.json").write_text('{"name": "my app"}')
    with pytest.raises(OtherSettingsError, match="no manifest of encoded captions"):
        encode(tmp_path, encoder)
    assert list(files(tmp_path)) == ["manifest.json"]


def test_shards_of_a_longer_data_set_are_counted(tmp_path, encoder):
    encode(tmp_path, encoder)
    assert encode(tmp_path, new_encoder(), CAPTIONS[:10]).left_over == 3
    assert len(EncodedCaptions(tmp_path)) == 10


def test_other_readers_understand_a_shard(tmp_path):
    encode(tmp_path, new_encoder(store="bf16", pooled=True))
    with safe_open(shard_path(tmp_path, 0), "pt") as file:
        assert file.get_tensor("caption_latents").shape == (8, 77, 32)
        assert file.get_tensor("caption_latents").dtype == torch.bfloat16
        assert file.get_tensor("caption_pooled").shape == (8, 32)
        assert json.loads(file.metadata()["sd2_clip"])["layer"].startswith("3 of 4")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["counts"]["captions"] == 52
    assert manifest["empty_caption"] == {"shard": 0, "row": 0}


def test_a_disk_that_fails_is_an_error_and_loses_nothing(tmp_path, encoder, monkeypatch):
    from sd2_clip.dataset import shards

    write = shards.write_safetensors

    def full(path, tensors, metadata):
        if path.name == "captions-00002.safetensors":
            raise OSError(28, "No space left on device", str(path))
        write(path, tensors, metadata)

    monkeypatch.setattr(shards, "write_safetensors", full)
    with pytest.raises(OSError, match="No space left"):
        encode(tmp_path, encoder)
    assert not (tmp_path / "index.jsonl").exists()
    monkeypatch.undo()
    encode(tmp_path, new_encoder())
    assert len(EncodedCaptions(tmp_path)) == 52


def test_a_folder_can_be_moved(tmp_path, encoder):
    encode(tmp_path / "a", encoder)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert EncodedCaptions(tmp_path / "b")[51]["truncated"]


@pytest.mark.parametrize(("number", "of"), [(0, 1), (3, 2), (1, 0)])
def test_a_part_that_does_not_exist_is_refused(number, of):
    with pytest.raises(OptionError, match="does not exist"):
        Part(number, of)
