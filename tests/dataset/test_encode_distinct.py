"""``--dedup global``: each distinct caption is encoded once, and every key finds it."""

import json
import os
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from interrupted_runs import kill_and_begin_again
from sd2_clip.dataset import CaptionEncoder, EncodedCaptions, distinct_captions, encode_distinct
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.export_captions import export_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.formats.keys import Keys
from sd2_clip.dataset.inputs.captions import CaptionsError
from sd2_clip.dataset.leases import Part
from sd2_clip.dataset.manifest import IncompleteError
from sd2_clip.dataset.plan import OutFolderError
from sd2_clip.sd2.errors import OptionError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
from pyarrow import compute, dataset  # noqa: E402 where there is pyarrow

pytestmark = pytest.mark.slow  # whole data sets and files

# Tokens, not texts, are compared: "A  Cat 3" is "a cat 3".
TEXTS = [f"a cat {number % 20}" for number in range(60)]
TEXTS += ["A  Cat 3", "", "", "word " * 75, "word " * 80]
DISTINCT = 22


@pytest.fixture(autouse=True)
def small_files(monkeypatch):
    """Let small sets have several files of each kind."""
    monkeypatch.setattr(Keys, "rows", 7)
    monkeypatch.setattr(distinct_captions, "ROWS", 9)


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in" / "b.jsonl", TEXTS).parent


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def write(path, texts):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps({'caption': text})}\n" for text in texts))
    return path


def encode(source, out, encoder=None, *, format="safetensors", **options):
    options = {"fragment_size": 4} | options
    return encode_distinct.encode_distinct(
        str(source), str(out), encoder or tiny.caption_encoder(), make_format(format), **options
    )


def files(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "_plan.json"  # which names the folder of the input
    }


def joined(out):
    """Key, caption and embedding of every caption of the input, as a trainer finds them."""
    captions = EncodedCaptions(out / "embeddings")
    assert len(set(captions.keys)) == len(captions)
    files = [str(out / "keys" / name) for name in EncodedCaptions(out / "keys").files]
    keys = dataset.dataset(files).to_table()
    rows = compute.index_in(keys["content_id"], pyarrow.array(captions.keys))
    for row, one in zip(rows.to_pylist(), keys.to_pylist(), strict=True):
        yield one["key"], one["caption"], captions[row]


@pytest.mark.parametrize("format", ["parquet", "safetensors", "webdataset", "mds"])
def test_each_distinct_caption_is_encoded_once(format, source, out):
    summary = encode(source, out, format=format)
    assert (summary.keys, summary.counts.captions, summary.encoded) == (65, DISTINCT, DISTINCT)
    assert encode(source, out, format=format).encoded == 0


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
def test_every_key_finds_the_embedding_of_its_caption(format, source, out, tmp_path):
    encode(source, out, format=format)
    encode_captions(
        str(source),
        str(tmp_path / "all"),
        tiny.caption_encoder(),
        make_format(format),
        fragment_size=100,
    )
    everything = EncodedCaptions(tmp_path / "all")
    for (key, caption, found), expected in zip(joined(out), everything, strict=True):
        assert (key, caption) == (expected["key"], expected["caption"])
        torch.testing.assert_close(
            found["caption_latents"], expected["caption_latents"], atol=1e-3, rtol=0
        )
    empty = EncodedCaptions(out / "embeddings").empty["caption_latents"]
    torch.testing.assert_close(empty, everything.empty["caption_latents"], atol=1e-3, rtol=0)


def test_the_table_of_keys_says_what_each_caption_was(source, out):
    encode(source, out)
    rows = list(EncodedCaptions(out / "keys"))
    assert [row["key"] for row in rows] == [f"b.jsonl:{number}" for number in range(65)]
    assert [row["caption"] for row in rows] == TEXTS
    assert rows[3]["content_id"] == rows[60]["content_id"] != rows[4]["content_id"]
    assert [row["truncated"] for row in rows[-2:]] == [False, True]
    assert rows[-2]["content_id"] == rows[-1]["content_id"]
    batch = tiny.caption_encoder()({"caption": [TEXTS[3]]})
    assert batch["content_id"].tolist() == [rows[3]["content_id"]]


def test_distinct_captions_are_exported_and_keys_are_not(source, out, tmp_path):
    encode(source, out)
    summary = export_captions(
        str(out / "embeddings"), str(tmp_path / "exported"), make_format("webdataset")
    )
    assert summary.encoded == DISTINCT
    with pytest.raises(OptionError, match="has keys of captions and no embeddings"):
        export_captions(str(out / "keys"), str(tmp_path / "keys"), make_format("webdataset"))


def stopped(monkeypatch, what, count):
    """Let the user stop the program when *what* is called for the *count*-th time."""
    owner, name = what
    whole = getattr(owner, name)
    calls = iter(range(1, 1000))

    def stop(*arguments, **options):
        if next(calls) == count:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(owner, name, stop)


MOMENTS = {
    "keys": ((CaptionEncoder, "tokenize"), 1),
    "first pass": ((Keys, "_write"), 3),
    "between": ((distinct_captions, "first_occurrences"), 1),
    "distinct captions": ((distinct_captions, "_write"), 2),
    "embeddings": ((CaptionEncoder, "encode_chunks"), 5),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_goes_on_and_writes_the_same_bytes(
    moment, source, out, tmp_path, monkeypatch
):
    encode(source, tmp_path / "in one go")
    with monkeypatch.context() as patch:
        stopped(patch, *MOMENTS[moment])
        with pytest.raises(KeyboardInterrupt):
            encode(source, out)
    encode(source, out)
    assert files(out) == files(tmp_path / "in one go")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups are killed")
def test_kills_lose_nothing_and_leave_nothing(tmp_path, out, monkeypatch):
    texts = [f"picture {number % 400} of a cat" for number in range(1000)]
    source = write(tmp_path / "captions.jsonl", texts)
    kill_and_begin_again(source, out, tmp_path, 2, seed=1, function="encode_distinct")
    small = {"fragment_size": 8, "format": "parquet"}
    monkeypatch.undo()  # the killed processes have files of the usual size
    encode(source, tmp_path / "in one go", **small)
    assert files(out) == files(tmp_path / "in one go")


def test_an_inserted_file_encodes_only_its_new_captions(source, out):
    encode(source, out)
    before = files(out)
    write(source / "a.jsonl", ["a cat 1", "a dog", "a cat 30", "a dog"])
    summary = encode(source, out)
    assert (summary.encoded, summary.keys, summary.counts.captions) == (2, 69, DISTINCT + 2)
    after = files(out)
    changed = {name for name in before if after[name] != before[name]}
    assert {name.split("/")[-1] for name in changed} <= {"manifest.json", "_chosen.json"}
    found = [(key, caption) for key, caption, _ in joined(out)]
    assert found[:2] == [("a.jsonl:0", "a cat 1"), ("a.jsonl:1", "a dog")]
    assert len(found) == 69


def test_parts_make_the_whole(source, out, tmp_path):
    encode(source, tmp_path / "whole")
    summaries = [encode(source, out, part=Part(number, 2)) for number in (2, 1)]
    assert [summary.missing for summary in summaries] == [0, 0]
    assert files(out) == files(tmp_path / "whole")


def test_a_part_waits_for_the_keys_of_another(source, out, tmp_path, monkeypatch):
    encode(source, tmp_path / "whole")
    lease = {"process": f"elsewhere-{os.getpid()}", "time": 2**40}
    encode_keys = encode_distinct.encode_captions
    leases = []

    def meanwhile(*arguments, **options):
        if not leases:  # another machine has begun a fragment
            (name,) = list((tmp_path / "whole" / "keys").glob("captions-*"))[:1]
            path = out / "keys" / "_leases" / name.name.removeprefix("captions-")
            leases.append(path.with_suffix(".json"))
            leases[0].parent.mkdir(parents=True)
            leases[0].write_text(json.dumps(lease))
        return encode_keys(*arguments, **options)

    monkeypatch.setattr(encode_distinct, "encode_captions", meanwhile)
    monkeypatch.setattr(encode_distinct.time, "sleep", lambda seconds: leases[0].unlink())
    assert encode(source, out, part=Part(1, 2)).missing == 0
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize("folder", ["keys", "distinct", "embeddings"])
def test_verify_finds_damage_and_the_next_run_mends_it(folder, source, out):
    encode(source, out)
    good = files(out)
    assert encode(source, out, verify=True).encoded == 0
    path = sorted((out / folder).glob("[c0]*"))[1]
    data = path.read_bytes()
    path.unlink()  # its pages may still be mapped
    path.write_bytes(b"x" + data[1:])
    with pytest.raises(IncompleteError, match=f"1 files are damaged: {path.name}"):
        encode(source, out, verify=True)
    assert encode(source, out).encoded == (4 if folder == "embeddings" else 0)
    assert files(out) == good


def test_a_lost_file_is_written_again(source, out):
    encode(source, out)
    good = files(out)
    for folder in ("keys", "distinct", "embeddings"):
        sorted((out / folder).glob("[c0]*"))[0].unlink()
    encode(source, out)
    assert files(out) == good


def test_prune_removes_the_keys_of_an_earlier_input(source, out):
    write(source / "a.jsonl", ["a dog"])
    encode(source, out)
    (source / "b.jsonl").unlink()
    summary = encode(source, out)
    assert summary.keys == 1
    assert summary.stale_files == 20  # ten fragments, with their sidecars
    assert encode(source, out, prune=True).pruned == 20
    assert [caption for _, caption, _ in joined(out)] == ["a dog"]


def test_rows_left_out_are_counted(tmp_path, out):
    rows = [
        {"caption": "a cat", "key": "1", "status": "success", "error_message": None},
        {"caption": "a dog", "key": "2", "status": "failed_to_download", "error_message": "404"},
    ]
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    summary = encode(path, out)
    assert (summary.keys, summary.counts.captions, summary.counts.failed) == (1, 1, 1)


@pytest.mark.parametrize("format", ["simpletuner", "threestudio"])
def test_a_format_that_is_found_by_its_text_is_refused(format, source, out):
    options = {"model_name": "sd2"} if format == "threestudio" else {}
    with pytest.raises(OptionError, match=f"--format {format} has a file for each text already"):
        encode_distinct.encode_distinct(
            str(source), str(out), tiny.caption_encoder(), make_format(format, **options)
        )
    assert not out.exists()


def test_a_folder_with_other_files_is_left_alone(source, out):
    encode_captions(str(source), str(out), tiny.caption_encoder(), make_format())
    before = files(out)
    with pytest.raises(OutFolderError, match=r"contains other files .*_done.* choose a new or"):
        encode(source, out)
    assert files(out) == before
    encode(source, out.parent / "distinct")
    with pytest.raises(OutFolderError, match=r"contains other files .distinct/"):
        encode_captions(
            str(source), str(out.parent / "distinct"), tiny.caption_encoder(), make_format()
        )


def test_other_settings_never_mix(source, out):
    encode(source, out)
    before = files(out)
    with pytest.raises(OutFolderError, match="tokenizer: openclip, now diffusers"):
        encode(source, out, tiny.caption_encoder(tokenizer="diffusers"))
    with pytest.raises(OutFolderError, match=r"layer: 3 of 4.*, now 4 of 4"):
        encode(source, out, tiny.caption_encoder(layer="last"))
    assert files(out) == before


def test_captions_and_embeddings_are_kept_apart(source):
    with pytest.raises((CaptionsError, OutFolderError)):
        encode(source, source)
    with pytest.raises((CaptionsError, OutFolderError)):
        encode(source, source / "out")
    assert [path.name for path in source.iterdir()] == ["b.jsonl"]


def test_the_first_of_equal_ids_is_found():
    random = np.random.default_rng(1)
    ids = random.integers(0, 3, (5000, 2)).astype(np.uint64)
    ids[:, 0] += random.integers(0, 300, 5000).astype(np.uint64) << np.uint64(8)
    seen = {}
    for number, one in enumerate(map(tuple, ids.tolist())):
        seen.setdefault(one, number)
    first = distinct_captions.first_occurrences(ids)
    assert np.flatnonzero(first).tolist() == sorted(seen.values())
    assert all(one < other for one, other in pairwise(seen.values()))
    assert not len(distinct_captions.first_occurrences(ids[:0]))
