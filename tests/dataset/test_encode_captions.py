"""Data sets on disk: nothing twice, nothing lost, and never a mixture of two encoders."""

import json
import os
import shutil

import pytest
import tiny
import torch
from interrupted_runs import kill_and_begin_again
from safetensors import safe_open
from safetensors.torch import save_file
from sd2_clip.dataset import CaptionEncoder, EncodedCaptions
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.inputs.captions import CaptionsError
from sd2_clip.dataset.leases import Part
from sd2_clip.dataset.manifest import IncompleteError
from sd2_clip.dataset.plan import OutFolderError
from sd2_clip.dataset.storage import StorageError
from sd2_clip.sd2.errors import OptionError, UnreadableFileError

pytestmark = pytest.mark.slow  # whole data sets and files

pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")

FILE = tiny.GOLDEN / "tiny_text_encoder.safetensors"
TEXTS = [f"picture {number % 9} of (a cat:1.5)" for number in range(50)] + ["", "word " * 80]
SIZE = 8
FILES = 7
DISTINCT = 6 * SIZE + 4  # of 52 in files of 8, none repeats inside a file


@pytest.fixture
def source(tmp_path):
    """A file of captions, a line each."""
    return write(tmp_path / "captions.txt", TEXTS)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def write(path, texts):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def new_encoder(**options):
    """An encoder that records the chunks it encodes, those that fill up batches left out."""
    encoder = tiny.caption_encoder(**options)
    encoder.encoded = []
    encode = encoder.encode_chunks

    def recorded(chunks):
        encoder.encoded.extend(tuple(chunk) for chunk in chunks)
        return encode(chunks)

    encoder.encode_chunks = recorded
    return encoder


def encode(source, out, encoder=None, *, format="safetensors", **options):
    encoder = new_encoder() if encoder is None else encoder
    options = {"fragment_size": SIZE} | options
    return encode_captions(str(source), str(out), encoder, make_format(format), **options)


def files(out):
    """The bytes of all files by name."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
def test_every_caption_is_found_with_its_own_embedding(format, source, out):
    summary = encode(source, out, format=format)
    assert (summary.counts.captions, summary.fragments, summary.encoded) == (52, FILES, 52)
    assert (summary.counts.truncated, summary.counts.longest) == (1, 80)
    found = EncodedCaptions(out)
    assert len(found) == 52
    assert found.keys == [f"captions.txt:{number}" for number in range(52)]
    encoder = new_encoder()
    for number, (text, one) in enumerate(zip(TEXTS, found, strict=True)):
        assert (one["key"], one["caption"]) == (f"captions.txt:{number}", text)
        (ids,) = encoder.tokenize([text])
        assert (one["token_count"], one["truncated"]) == (len(ids), len(ids) > 75)
        (expected,) = encoder.encode([ids])["caption_latents"]
        torch.testing.assert_close(one["caption_latents"], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.empty["caption_latents"], found[50]["caption_latents"])


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
def test_two_runs_write_the_same_bytes(format, source, out, tmp_path):
    encode(source, out, format=format)
    encode(source, tmp_path / "again", format=format)
    assert files(out) == files(tmp_path / "again")


def test_what_was_encoded_before_has_no_influence_on_the_bytes(source, out, tmp_path):
    encode(source, out)
    encoder = new_encoder()
    for _ in range(20):  # after 16 small batches, weights are packed on the CPU
        encode(write(tmp_path / "one.txt", ["a cat"]), tmp_path / "one", encoder)
        shutil.rmtree(tmp_path / "one")
    encode(source, tmp_path / "again", encoder)
    assert files(out) == files(tmp_path / "again")


def test_a_caption_of_a_fragment_is_encoded_once(tmp_path, out):
    encoder = new_encoder()
    texts = ["a cat", "a dog"] * 10 + ["word " * 80, "word " * 75 + "else", "word " * 75]
    summary = encode(write(tmp_path / "a.txt", texts), out, encoder, fragment_size=100)
    assert (summary.counts.distinct, summary.counts.truncated) == (3, 2)
    assert sum(1 for ids in encoder.encoded if any(ids[2:])) == 3  # the others are empty


def stopped_after(count):
    """An encoder that its user stops when it has encoded *count* batches."""
    encoder = new_encoder()
    whole = encoder.encode_chunks
    batches = iter(range(1000))

    def stop(chunks):
        if chunks and next(batches) >= count:
            raise KeyboardInterrupt
        return whole(chunks)

    encoder.encode_chunks = stop
    return encoder


def test_beginning_again_does_only_what_is_left(source, out, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        encode(source, out, stopped_after(4))
    written = len(list(out.glob("captions-*.safetensors")))
    assert written >= 2
    with pytest.raises(IncompleteError, match="it does what is missing"):
        EncodedCaptions(out)
    assert encode(source, out).encoded == 52 - SIZE * written
    encode(source, tmp_path / "in one go")
    assert files(out) == files(tmp_path / "in one go")


def test_done_again_nothing_is_encoded_and_nothing_changes(source, out):
    encode(source, out)
    before = files(out)
    encoder = new_encoder()
    assert encode(source, out, encoder).encoded == 0
    assert encoder.encoded == []
    assert files(out) == before


def test_another_file_of_the_input_costs_only_itself(tmp_path, out):
    folder = tmp_path / "in"
    write(folder / "b.jsonl", [json.dumps(text) for text in TEXTS])
    encode(folder, out)
    before = files(out)
    write(folder / "a.jsonl", ['"something new"', '"and something else"'])
    assert encode(folder, out).encoded == 2
    after = files(out)
    assert {name: after[name] for name in before if name.startswith("captions")} == {
        name: data for name, data in before.items() if name.startswith("captions")
    }
    found = [one["caption"] for one in EncodedCaptions(out)]
    assert found == ["something new", "and something else", *TEXTS]


def test_a_stopped_change_leaves_the_data_set_of_before(tmp_path, out):
    folder = tmp_path / "in"
    write(folder / "a.jsonl", [json.dumps(text) for text in TEXTS])
    encode(folder, out)
    write(folder / "b.jsonl", [json.dumps(f"{text} by day") for text in TEXTS])
    with pytest.raises(KeyboardInterrupt):
        encode(folder, out, stopped_after(2))
    assert [one["caption"] for one in EncodedCaptions(out)] == TEXTS
    encode(folder, out)
    assert len(EncodedCaptions(out)) == 2 * len(TEXTS)


def test_files_of_an_earlier_input_are_counted_and_pruned(tmp_path, out):
    folder = tmp_path / "in"
    write(folder / "a.jsonl", [json.dumps(text) for text in TEXTS])
    encode(write(folder / "b.jsonl", ['"one"']).parent, out)
    (folder / "a.jsonl").unlink()
    summary = encode(folder, out)
    assert (summary.stale_files, summary.pruned) == (2 * FILES, 0)  # each with its sidecar
    assert encode(folder, out, prune=True).pruned == 2 * FILES
    assert len(list(out.glob("captions-*"))) == 1
    assert [one["caption"] for one in EncodedCaptions(out)] == ["one"]


def test_verify_finds_damage_and_the_next_run_mends_it(source, out):
    encode(source, out)
    good = files(out)
    assert encode(source, out, verify=True).encoded == 0
    changed, short, lost = sorted(out.glob("captions-*"))[:3]
    for path, data in ((changed, b"x" + good[changed.name][1:]), (short, good[short.name][:-5])):
        path.unlink()  # its pages may still be mapped
        path.write_bytes(data)
    with pytest.raises(IncompleteError, match=r"2 files are damaged: .* has other bytes"):
        encode(source, out, verify=True)
    with pytest.raises(IncompleteError):
        EncodedCaptions(out)
    lost.unlink()
    assert encode(source, out).encoded in (3 * SIZE, 2 * SIZE + 4)  # the last file has 4
    assert files(out) == good


def test_a_damaged_file_is_named_when_it_is_read(source, out):
    encode(source, out)
    path = sorted(out.glob("captions-*"))[2]
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-5])
    with pytest.raises(IncompleteError, match=f"{path.name}.*--verify"):
        list(EncodedCaptions(out))


def test_parts_make_the_whole(source, out, tmp_path):
    encode(source, tmp_path / "whole")
    summaries = [encode(source, out, part=Part(number, 3)) for number in (3, 1, 2)]
    assert summaries[0].encoded == 52  # nobody else had begun
    assert [summary.missing for summary in summaries] == [0, 0, 0]
    assert files(out) == files(tmp_path / "whole")


def test_a_part_leaves_what_another_has_begun(source, out, tmp_path):
    encode(source, tmp_path / "whole")
    other = stopped_after(3)
    whole = other.encode_chunks
    found = []

    def meanwhile(chunks):
        if len(other.encoded) >= SIZE and not found:
            found.append(encode(source, out, part=Part(2, 2)))
        return whole(chunks)

    other.encode_chunks = meanwhile
    with pytest.raises(KeyboardInterrupt):
        encode(source, out, other, part=Part(1, 2))
    assert found[0].missing == 3  # one that is being encoded, and two read ahead
    assert found[0].encoded == 24
    with pytest.raises(IncompleteError):
        EncodedCaptions(out)
    for lease in out.glob("_leases/*"):  # this process still runs
        lease.unlink()
    encode(source, out, part=Part(1, 2))
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(("number", "of"), [(0, 1), (3, 2), (1, 0)])
def test_a_part_that_does_not_exist_is_refused(number, of):
    with pytest.raises(OptionError, match=f"Invalid part {number}/{of}"):
        Part(number, of)


def test_a_refused_checkpoint_leaves_no_empty_folder(source, out, tmp_path):
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html>" * 9)
    encoder = CaptionEncoder(tmp_path / "page.safetensors", device="cpu")
    with pytest.raises(UnreadableFileError, match="a web page"):
        encode(source, out, encoder)
    assert not out.exists()


OTHER = {
    "layer": {"layer": "last"},
    "stored_in": {"store": "fp32"},
    "pooled": {"pooled": True},
    "weights_in": {"dtype": "fp16"},
    "tokenizer": {"tokenizer": "diffusers"},
    "batch_size": {"batch_size": 8},
}


@pytest.mark.parametrize("setting", OTHER)
def test_other_settings_never_mix(setting, source, out):
    encode(source, out)
    before = files(out)
    with pytest.raises(OutFolderError, match=f"{setting}: .*, now .*Choose a new or empty folder"):
        encode(source, out, new_encoder(**OTHER[setting]))
    with pytest.raises(OutFolderError, match="file_format: safetensors, now parquet"):
        encode(source, out, format="parquet")
    with pytest.raises(OutFolderError, match="fragment_size: 8, now 9"):
        encode(source, out, fragment_size=9)
    assert files(out) == before


def test_other_weights_never_mix(source, out, tmp_path):
    encode(source, out)
    other = tiny.state_dict()
    other["text_model.final_layer_norm.bias"] += 1
    save_file(other, tmp_path / "other.safetensors")
    theirs = CaptionEncoder(
        tmp_path / "other.safetensors",
        model_options=tiny.MODEL_OPTIONS,
        device="cpu",
        dtype="fp32",
    )
    with pytest.raises(OutFolderError, match="weights_sha256"):
        encode(source, out, theirs)


def test_other_captions_never_mix(source, out, tmp_path):
    encode(source, out)
    other = write(tmp_path / "other" / "captions.txt", ["a castle"])
    with pytest.raises(OutFolderError, match="was planned for the captions in"):
        encode(other, out)
    shutil.copytree(source.parent, tmp_path / "moved", ignore=lambda *_: ["out", "other"])
    assert encode(tmp_path / "moved" / "captions.txt", out).encoded == 0


@pytest.mark.parametrize("name", ["manifest.json", "captions-0.safetensors", "photo.png"])
def test_a_folder_with_other_files_is_left_alone(name, source, out):
    out.mkdir()
    (out / name).write_text("mine")
    with pytest.raises(OutFolderError, match=f"contains other files .{name}"):
        encode(source, out)
    assert [path.name for path in out.iterdir()] == [name]


def test_a_damaged_plan_is_named(source, out):
    encode(source, out)
    (out / "_plan.json").write_text("{}")
    with pytest.raises(OutFolderError, match="is not a plan of encoded captions"):
        encode(source, out)


def test_captions_and_embeddings_are_kept_apart(source, tmp_path):
    folder = tmp_path / "in"
    write(folder / "a.jsonl", ['"a cat"'])
    for out in (folder, folder / "out", tmp_path):
        with pytest.raises((CaptionsError, OutFolderError)):
            encode(folder, out)
    assert sorted(path.name for path in folder.iterdir()) == ["a.jsonl"]


def test_other_programs_understand_a_file(source, out):
    encode(source, out, new_encoder(store="bf16", pooled=True))
    manifest = json.loads((out / "manifest.json").read_text())
    with safe_open(out / manifest["fragments"][0][0], "pt") as file:
        assert file.get_tensor("caption_latents").shape == (8, 77, 32)
        assert file.get_tensor("caption_latents").dtype == torch.bfloat16
        assert file.get_tensor("caption_pooled").shape == (8, 32)
        assert file.get_tensor("row_of").tolist() == list(range(8))
        assert json.loads(file.metadata()["sd2_clip"])["layer"].startswith("3 of 4")
    assert manifest["counts"]["captions"] == 52


def test_a_disk_that_fails_is_an_error_and_loses_nothing(source, out, monkeypatch):
    replace = os.replace
    calls = iter(range(100))

    def full(partial, path):
        if next(calls) == 8:
            raise OSError(28, "No space left on device")
        replace(partial, path)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        encode(source, out)
    assert not list(out.rglob("*.partial"))
    monkeypatch.undo()
    encode(source, out)
    assert len(EncodedCaptions(out)) == 52


def test_a_damaged_input_is_named_after_all_fragments_before_it(tmp_path, out):
    rows = [json.dumps({"caption": text}) for text in TEXTS]
    source = write(tmp_path / "a.jsonl", [*rows, '{"caption": 5}'])
    with pytest.raises(CaptionsError, match=r"a\.jsonl, row 52: the caption is not a text but 5"):
        encode(source, out)


@pytest.mark.skipif(os.name == "nt", reason="process groups are killed")
@pytest.mark.slow
def test_kills_lose_nothing_and_leave_nothing(tmp_path, out):
    source = write(
        tmp_path / "captions.txt", [f"picture {number} of a cat" for number in range(1000)]
    )
    kill_and_begin_again(source, out, tmp_path, 2, seed=1)
    encode(source, tmp_path / "in one go", format="parquet")
    assert files(out) == files(tmp_path / "in one go")


def test_a_folder_can_be_moved(source, tmp_path):
    encode(source, tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert EncodedCaptions(tmp_path / "b")[51]["truncated"]
