"""Data sets on disk: nothing twice, nothing lost, and never a mixture of two encoders."""

import contextlib
import json
import os
import shutil

import pytest
import tiny
import torch
from safetensors import safe_open
from sd2_clip.dataset import CaptionEncoder, EncodedCaptions
from sd2_clip.dataset.captions import Caption
from sd2_clip.dataset.manifest import IncompleteError, OutFolderError
from sd2_clip.dataset.shards import Part, encode_captions
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
    encode = encoder.encode_chunks

    def recorded(chunks):
        encoder.encoded.extend(chunks)
        return encode(chunks)

    encoder.encode_chunks = recorded
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
        assert (one["token_count"], one["truncated"]) == (len(ids), len(ids) > 75)
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


def stopped_after(encoder, count):
    """*encoder*, stopped by its user when it has encoded *count* captions."""
    whole = encoder.encode_chunks

    def stop(chunks):
        if len(encoder.encoded) >= count:
            raise KeyboardInterrupt
        return whole(chunks)

    encoder.encode_chunks = stop
    return encoder


def test_beginning_again_does_only_what_is_left(tmp_path, encoder):
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path, stopped_after(encoder, 24))
    shards = len(list(tmp_path.glob("*.safetensors")))
    assert shards >= 2
    with pytest.raises(IncompleteError, match="it does what is missing"):
        EncodedCaptions(tmp_path)
    rest = new_encoder()
    assert encode(tmp_path, rest).encoded == len(rest.encoded) == DISTINCT - 8 * shards
    encode(tmp_path / "in one go", new_encoder())
    assert files(tmp_path) == files(tmp_path / "in one go")


def test_done_again_nothing_is_encoded_and_nothing_changes(tmp_path, encoder):
    encode(tmp_path, encoder)
    before = files(tmp_path)
    again = new_encoder()
    assert encode(tmp_path, again).encoded == 0
    assert again.encoded == []
    assert files(tmp_path) == before


def assert_same(found, expected):
    """Rows are equal; batches of another make may round another way."""
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(value, other[name], atol=1e-3, rtol=1e-3)
            else:
                assert value == other[name]


MORE = [Caption("new", "something new"), Caption("other", "and something else")]
CHANGES = {
    "appended": [*CAPTIONS, *MORE],
    "put in front": [*MORE, *CAPTIONS],
    "in the middle": [*CAPTIONS[:20], *MORE, *CAPTIONS[20:]],
    "instead of others": [*CAPTIONS[:5], *MORE, *CAPTIONS[30:]],
}


@pytest.mark.parametrize("captions", CHANGES.values(), ids=list(CHANGES))
def test_new_captions_cost_only_themselves(captions, tmp_path, encoder):
    encode(tmp_path, encoder)
    assert encode(tmp_path, new_encoder(), captions).encoded == 2
    encode(tmp_path / "from new", new_encoder(), captions)
    found, expected = EncodedCaptions(tmp_path), EncodedCaptions(tmp_path / "from new")
    assert_same(found, expected)


def test_a_stopped_change_leaves_the_data_set_of_before(tmp_path, encoder):
    encode(tmp_path, encoder)
    before = list(EncodedCaptions(tmp_path))
    changed = [Caption(c.key, c.text.replace("cat", "dog")) for c in CAPTIONS]
    with pytest.raises(KeyboardInterrupt):
        encode(tmp_path, stopped_after(new_encoder(), 24), changed)
    assert_same(EncodedCaptions(tmp_path), before)


def test_a_damaged_shard_is_made_anew(tmp_path, encoder):
    encode(tmp_path, encoder)
    good = files(tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[2]
    data = shard.read_bytes()
    shard.unlink()  # its pages may still be mapped
    shard.write_bytes(data[:-5])
    found = EncodedCaptions(tmp_path)
    with pytest.raises(IncompleteError, match="Run sd2-clip encode again"):
        list(found)
    assert encode(tmp_path, new_encoder()).encoded in (7, 8)  # the last one has 7
    assert files(tmp_path) == good


def test_parts_make_the_whole(tmp_path, encoder):
    encode(tmp_path / "whole", encoder)
    summaries = [encode(tmp_path / "parts", new_encoder(), part=Part(i, 3)) for i in (3, 1, 2)]
    assert [summary.missing for summary in summaries] == [4, 2, 0]
    assert sum(summary.encoded for summary in summaries) == DISTINCT
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_half_a_data_set_is_none(tmp_path, encoder):
    encode(tmp_path, encoder, part=Part(1, 2))
    with pytest.raises(IncompleteError, match="2 of 5 shards are not there"):
        EncodedCaptions(tmp_path)


def test_parts_of_other_captions_never_pass_for_the_same(tmp_path, encoder):
    changed = [Caption(c.key, c.text.replace("cat", "dog")) for c in CAPTIONS]
    encode(tmp_path, encoder, part=Part(1, 2))
    assert encode(tmp_path, new_encoder(), changed, part=Part(2, 2)).missing == 3
    with pytest.raises(IncompleteError, match="3 of 5 shards are not there"):
        EncodedCaptions(tmp_path)


def test_a_part_of_a_change_leaves_the_data_set_of_before(tmp_path, encoder):
    encode(tmp_path, encoder)
    before = list(EncodedCaptions(tmp_path))
    changed = [Caption(c.key, c.text.replace("cat", "dog")) for c in CAPTIONS]
    encode(tmp_path, new_encoder(), changed, part=Part(1, 2))
    assert_same(EncodedCaptions(tmp_path), before)
    encode(tmp_path, new_encoder(), changed, part=Part(2, 2))
    assert EncodedCaptions(tmp_path)[0]["caption"] == changed[0].text
    assert len(list(tmp_path.glob("index-*"))) == 1


def test_parts_of_other_settings_started_together_never_mix(tmp_path, encoder):
    other = new_encoder(store="bf16")
    whole = encoder.encode_chunks

    def meanwhile(chunks):
        encoder.encode_chunks = whole
        with contextlib.suppress(OutFolderError):
            encode(tmp_path, other, part=Part(2, 2))
        return whole(chunks)

    encoder.encode_chunks = meanwhile
    encode(tmp_path, encoder, part=Part(1, 2))
    with pytest.raises(IncompleteError):
        EncodedCaptions(tmp_path)


def test_a_folder_made_anew_is_read_anew(tmp_path, encoder):
    out = tmp_path / "out"
    encode(out, encoder)
    first = EncodedCaptions(out)[3]["caption_latents"]
    shutil.rmtree(out)
    encode(out, new_encoder(layer="last"))
    assert not torch.equal(EncodedCaptions(out)[3]["caption_latents"], first)


def test_few_files_are_open_at_a_time(tmp_path, encoder):
    resource = pytest.importorskip("resource", reason="Windows has no such limit")
    encode(tmp_path, encoder, shard_size=1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 20, limits[1]))
    try:
        assert encode(tmp_path, new_encoder(), [*MORE, *CAPTIONS], shard_size=100).encoded == 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_rows_are_the_trainers_to_change(tmp_path, encoder):
    encode(tmp_path, encoder)
    found = EncodedCaptions(tmp_path)
    before = found[3]["caption_latents"]
    found[3]["caption_latents"].zero_()
    torch.testing.assert_close(found[3]["caption_latents"], before)


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
    with pytest.raises(OutFolderError, match=f"{setting}: .*, now .*Choose a new or empty folder"):
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
    with pytest.raises(OutFolderError, match="weights_sha256"):
        encode(tmp_path, theirs)


def test_a_folder_with_another_manifest_is_left_alone(tmp_path, encoder):
    (tmp_path / "manifest.json").write_text('{"name": "my app"}')
    with pytest.raises(OutFolderError, match="no manifest of encoded captions"):
        encode(tmp_path, encoder)
    assert list(files(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize("name", ["index-0.jsonl", "captions-0.safetensors", "photo.png"])
def test_a_folder_with_other_things_is_left_alone(name, tmp_path, encoder):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutFolderError, match=f"holds other things .{name}"):
        encode(tmp_path, encoder)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_shards_of_earlier_captions_are_counted(tmp_path, encoder):
    encode(tmp_path, encoder)
    assert encode(tmp_path, new_encoder(), CAPTIONS[:10]).left_over == 4
    assert len(EncodedCaptions(tmp_path)) == 10


def test_the_size_of_shards_may_change(tmp_path, encoder):
    encode(tmp_path, encoder)
    assert encode(tmp_path, new_encoder(), shard_size=5).encoded == 0
    assert len(EncodedCaptions(tmp_path)) == 52


def test_other_readers_understand_a_shard(tmp_path):
    encode(tmp_path, new_encoder(store="bf16", pooled=True))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    with safe_open(tmp_path / manifest["shards"][0], "pt") as file:
        assert file.get_tensor("token_ids")[0, :3].tolist() == [49406, 49407, 0]
        assert file.get_tensor("caption_latents").shape == (8, 77, 32)
        assert file.get_tensor("caption_latents").dtype == torch.bfloat16
        assert file.get_tensor("caption_pooled").shape == (8, 32)
        assert json.loads(file.metadata()["sd2_clip"])["layer"].startswith("3 of 4")
    assert manifest["counts"]["captions"] == 52
    assert manifest["empty_caption"] == {"shard": 0, "row": 0}


def test_a_disk_that_fails_is_an_error_and_loses_nothing(tmp_path, encoder, monkeypatch):
    from sd2_clip.dataset import shards

    write = shards.write_safetensors

    calls = iter(range(100))

    def full(path, tensors, metadata):
        if next(calls) == 2:
            raise OptionError(f"{path} cannot be written: No space left on device")
        write(path, tensors, metadata)

    monkeypatch.setattr(shards, "write_safetensors", full)
    with pytest.raises(OptionError, match="No space left"):
        encode(tmp_path, encoder)
    assert len(list(tmp_path.glob("*.safetensors"))) >= 2
    monkeypatch.undo()
    encode(tmp_path, new_encoder())
    assert len(EncodedCaptions(tmp_path)) == 52


def test_a_folder_can_be_moved(tmp_path, encoder):
    encode(tmp_path / "a", encoder)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert EncodedCaptions(tmp_path / "b")[51]["truncated"]


@pytest.mark.parametrize(("number", "of"), [(0, 1), (3, 2), (1, 0)])
def test_a_part_that_does_not_exist_is_refused(number, of):
    with pytest.raises(OptionError, match="There is no part"):
        Part(number, of)
