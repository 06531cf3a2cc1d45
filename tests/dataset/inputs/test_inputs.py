"""Captions from every kind of file that people have."""

import gzip
import io
import json
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from sd2_clip.dataset.fragments import group_texts, read_table
from sd2_clip.dataset.inputs.captions import CaptionsError, ReadOptions
from sd2_clip.dataset.inputs.find import find_inputs
from sd2_clip.dataset.read_fragment import FragmentReader, check_first_caption
from sd2_clip.dataset.storage import FileInfo, Folder
from sd2_clip.sd2.errors import OptionError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
from pyarrow import parquet  # noqa: E402

TEXTS = ["a cat", "a dog, (best:1.2)", "", "東京 “quoted”, 100%", "five", "six", "seven"]
SIZE = 3
DATA = Path(__file__).parents[2] / "data" / "captions"


def fragments(source, options=None, out=None):
    """All fragments of a source, with what reads them."""
    options = options or ReadOptions()
    inputs = find_inputs(str(source), Folder(str(out or source)), options)
    check_first_caption(inputs, options)
    parts = [read_table(inputs.folder, file, SIZE, options) for file in inputs.tables]
    parts += group_texts(inputs.texts, SIZE)
    found = [fragment for part in parts for fragment in part.fragments(SIZE, "")]
    assert len(found) == sum(part.count(SIZE) for part in parts)
    return inputs, FragmentReader(inputs.folder, options), found


def read(source, **options):
    """All captions of a source as (key, text)."""
    _, reader, found = fragments(source, ReadOptions(**options))
    with closing(reader):
        captions = [caption for fragment in found for caption in reader.read(fragment).captions]
    return [(caption.key, caption.text) for caption in captions]


def texts(source, **options):
    return [text for _, text in read(source, **options)]


def as_parquet(rows):
    stream = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream, row_group_size=4)
    return stream.getvalue()


def as_arrow(rows):
    table = pyarrow.Table.from_pylist(rows)
    stream = io.BytesIO()
    with pyarrow.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return stream.getvalue()


def as_csv(rows, delimiter=",", header=True):
    quoted = [delimiter.join(f'"{value}"' for value in row.values()) for row in rows]
    return "\n".join([*([delimiter.join(rows[0])] if header else []), *quoted, ""]).encode(
        "utf-8-sig"
    )


def as_tar(members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


ROWS = [{"file": f"{number}.png", "text": text} for number, text in enumerate(TEXTS)]
LINES = "".join(f"{text}\n" for text in TEXTS).encode("utf-8-sig")
JSON_LINES = "\n\n".join(json.dumps(row) for row in ROWS).encode("utf-8-sig")
KINDS = {
    "captions.txt": LINES,
    "captions.TXT": LINES.replace(b"\n", b"\r\n"),
    "captions.txt.gz": gzip.compress(LINES),
    "captions.txt.zst": pyarrow.compress(LINES, "zstd", asbytes=True),
    "captions.jsonl": JSON_LINES,
    "captions.ndjson": JSON_LINES,
    "captions.jsonl.gz": gzip.compress(JSON_LINES),
    "captions.jsonl.zst": pyarrow.compress(JSON_LINES, "zstd", asbytes=True),
    "captions.csv": as_csv(ROWS),
    "semicolons.csv": as_csv(ROWS, ";"),
    "captions.tsv": as_csv(ROWS, "\t"),
    "captions.tsv.gz": gzip.compress(as_csv(ROWS, "\t")),
    "captions.json": json.dumps(ROWS, indent=1).encode(),
    "captions.parquet": as_parquet(ROWS),
    "captions.arrow": as_arrow(ROWS),
}


@pytest.mark.parametrize("name", KINDS)
def test_captions_are_read_in_order_with_file_and_row_as_keys(name, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name])
    assert read(tmp_path / name) == [
        (f"{name}:{number}", text) for number, text in enumerate(TEXTS)
    ]


@pytest.mark.parametrize("name", [name for name in KINDS if ".txt" not in name.lower()])
def test_a_column_may_be_the_key(name, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name])
    found = read(tmp_path / name, column="text", key_column="file")
    assert found == [(row["file"], row["text"]) for row in ROWS]


@pytest.mark.parametrize("name", KINDS)
def test_fragments_are_read_in_any_order(name, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name])
    _, reader, found = fragments(tmp_path / name)
    for fragment in reversed(found):
        expected = TEXTS[fragment.first : fragment.first + fragment.count]
        assert [caption.text for caption in reader.read(fragment).captions] == expected
    reader.close()


@pytest.mark.parametrize(
    ("name", "has_offsets"),
    [("captions.txt", True), ("captions.jsonl", True), ("captions.csv", False)],
)
def test_lines_are_found_by_their_offset(name, has_offsets, tmp_path):
    (tmp_path / name).write_bytes(KINDS[name])
    _, _, found = fragments(tmp_path / name)
    assert [(one.first, one.count) for one in found] == [(0, 3), (3, 3), (6, 1)]
    assert all((one.offset is not None) == has_offsets for one in found)


def test_other_files_change_no_ids(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(JSON_LINES)
    _, _, before = fragments(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(JSON_LINES)
    _, _, after = fragments(tmp_path)
    assert after[len(before) :] == before
    assert len({fragment.id for fragment in after}) == len(after)


def test_a_text_beside_each_picture(tmp_path):
    for name, text in {"b/2.txt": "two\n", "a.txt": "\ufeffone", "b/1.TXT": " x "}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).with_suffix(".JPG").touch()
    assert read(tmp_path) == [("a", "one"), ("b/1", "x"), ("b/2", "two")]


def pictures(folder, names, extension=".txt"):
    for name in names:
        (folder / f"{name}{extension}").write_text(f"{name}\nsecond line", encoding="utf-8")
        (folder / f"{name}.webp").touch()


def test_what_has_no_partner_is_counted_and_left_out(tmp_path):
    pictures(tmp_path, ["1", "2"])
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "3.png").touch()
    inputs, _, _ = fragments(tmp_path)
    assert inputs.left_out == {"texts_without_picture": 1, "pictures_without_text": 1}
    assert [key for key, _ in read(tmp_path)] == ["1", "2"]


def test_texts_whose_pictures_are_elsewhere(tmp_path):
    pictures(tmp_path, ["1", "2"])
    for path in tmp_path.glob("*.webp"):
        path.unlink()
    assert [key for key, _ in read(tmp_path)] == ["1", "2"]


def test_kohyas_ending_and_others(tmp_path):
    pictures(tmp_path, ["1", "2"], ".caption")
    assert texts(tmp_path, caption_lines="first") == ["1", "2"]
    assert texts(tmp_path) == ["1\nsecond line", "2\nsecond line"]
    pictures(tmp_path, ["1"], ".txt")
    with pytest.raises(CaptionsError, match=r"\.txt and \.caption.*--caption-extension"):
        read(tmp_path)
    assert len(read(tmp_path, caption_extension="caption")) == 2
    pictures(tmp_path, ["1"], ".tags")
    assert len(read(tmp_path, caption_extension=".tags")) == 1


def test_a_new_text_changes_few_groups():
    before = [FileInfo(f"{number:05}.txt", 1, "1") for number in range(0, 20000, 2)]
    after = sorted([*before, FileInfo("10001.txt", 1, "1")], key=lambda file: file.name)
    groups = [{group.version for group in group_texts(files, 100)} for files in (before, after)]
    assert len(groups[0] ^ groups[1]) <= 6
    assert 100 <= len(groups[0]) <= 400
    assert max(len(group.names) for group in group_texts(after, 100)) <= 100


def test_tables_of_a_folder_with_a_readme(tmp_path):
    (tmp_path / "b.jsonl").write_bytes(JSON_LINES)
    (tmp_path / "a.csv").write_bytes(KINDS["captions.csv"])
    (tmp_path / "README.txt").write_text("about these captions")
    (tmp_path / ".hidden.csv").write_text("no captions")
    assert texts(tmp_path) == TEXTS * 2
    assert read(tmp_path)[7][0] == "b.jsonl:0"


def test_a_folder_with_tables_and_texts_is_asked_about(tmp_path):
    (tmp_path / "captions.csv").write_bytes(KINDS["captions.csv"])
    pictures(tmp_path, ["1"])
    with pytest.raises(CaptionsError, match=r"tables \(captions\.csv\) and texts .*\(1\.txt\)"):
        read(tmp_path)


def test_a_pattern(tmp_path):
    for name in ("x/1.jsonl", "x/2.jsonl", "y/1.jsonl", "y/1.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(JSON_LINES)
    found = [key for key, _ in read(f"{tmp_path}/*/*.jsonl")]
    assert found[::7] == ["x/1.jsonl:0", "x/2.jsonl:0", "y/1.jsonl:0"]
    assert read(f"{tmp_path}/x/1*")[0][0] == "1.jsonl:0"
    with pytest.raises(CaptionsError, match="matches no file"):
        read(f"{tmp_path}/z/*")


@pytest.mark.parametrize(("source", "data"), [("-", LINES), ("-.jsonl", JSON_LINES)])
def test_standard_input(source, data, tmp_path, monkeypatch):
    options = ReadOptions()
    names = []
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        _, reader, found = fragments(source, options, out=tmp_path)
        captions = [one.text for fragment in found for one in reader.read(fragment).captions]
        assert captions == TEXTS
        names.append(found[0].id)
    assert names[0] == names[1]


def test_save_to_disk_of_datasets(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "data-00000-of-00001.arrow").write_bytes(KINDS["captions.arrow"])
    for name in ("dataset_dict.json", "train/state.json", "train/dataset_info.json"):
        (tmp_path / name).write_text("{}")
    assert texts(tmp_path) == TEXTS


def test_a_webdataset_tar(tmp_path):
    members = {
        "a/0001.jpg": b"",
        "a/0001.txt": "one\n".encode("utf-8-sig"),
        "a/0001.json": b'{"x": 1}',
    }
    members |= {"a/0002.json": b'{"caption": "two", "alt": {"en": "2"}}', "a/0002.cls": b"3"}
    (tmp_path / "0.tar").write_bytes(as_tar(members))
    assert read(tmp_path) == [("a/0001", "one"), ("a/0002", "two")]
    (tmp_path / "0.tar").write_bytes(as_tar({"a/0001.jpg": b""}))
    with pytest.raises(CaptionsError, match=r"a/0001: neither a \.txt nor a \.json"):
        read(tmp_path)


def test_failed_downloads_of_img2dataset_are_counted_and_left_out(tmp_path):
    rows = [
        {"key": f"0000{number}", "caption": text, "status": status, "error_message": None}
        for number, (text, status) in enumerate(
            [("one", "success"), ("two", "failed_to_download"), ("three", "success")]
        )
    ]
    (tmp_path / "00000.parquet").write_bytes(as_parquet(rows))
    (tmp_path / "00000.tar").write_bytes(as_tar({"00000.txt": b"one", "00002.txt": b"three"}))
    (tmp_path / "00000_stats.json").write_text("{}")
    _, reader, (fragment,) = fragments(tmp_path)
    found = reader.read(fragment)
    assert found.failed == 1
    assert [(one.key, one.text) for one in found.captions] == [("00000", "one"), ("00002", "three")]
    reader.close()
    (tmp_path / "00000.parquet").unlink()
    assert read(tmp_path) == [("00000", "one"), ("00002", "three")]


def test_kohyas_meta_file(tmp_path):
    meta = {"/img/1.png": {"caption": "one", "tags": "a, b"}, "/img/2.png": {"caption": "two"}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert read(tmp_path / "meta.json") == [("/img/1.png", "one"), ("/img/2.png", "two")]
    (tmp_path / "1.png").touch()
    assert texts(tmp_path) == ["one", "two"]


def test_metadata_of_an_image_folder_is_keyed_by_its_file_name(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.png").touch()
    rows = '{"file_name": "1.png", "text": "one"}\n{"file_name": "2.png", "text": "two"}\n'
    (tmp_path / "train" / "metadata.jsonl").write_text(rows)
    assert read(tmp_path) == [("train/1.png", "one"), ("train/2.png", "two")]
    assert read(tmp_path, key_column="text") == [("one", "one"), ("two", "two")]


@pytest.mark.parametrize("name", ["TEXT", "Caption", "PROMPT", "captions"])
def test_known_columns_in_any_capitals(name, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"URL": "x", name: "one"}))
    assert texts(tmp_path / "a.jsonl") == ["one"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".json"])
def test_dotted_columns(suffix, tmp_path):
    rows = [{"meta": {"alt": {"en": "one"}}, "meta.x": "two"}]
    data = {".parquet": as_parquet(rows), ".jsonl": json.dumps(rows[0]).encode()}
    (tmp_path / f"a{suffix}").write_bytes(data.get(suffix, json.dumps(rows).encode()))
    assert texts(tmp_path / f"a{suffix}", column="meta.alt.en") == ["one"]
    assert texts(tmp_path / f"a{suffix}", column="meta.x") == ["two"]
    with pytest.raises(CaptionsError, match=r"no field 'fr' of 'meta\.alt\.fr' in en"):
        read(tmp_path / f"a{suffix}", column="meta.alt.fr")


def test_lists_of_captions():
    source = DATA / "captions_list_column.parquet"  # from a public bug report
    assert texts(source) == ["a", "c"]
    assert read(source, captions="all") == [
        ("captions_list_column.parquet:0#0", "a"),
        ("captions_list_column.parquet:0#1", "b"),
        ("captions_list_column.parquet:1#0", "c"),
    ]
    chosen = {tuple(texts(source, captions="random", seed=seed)) for seed in range(20)}
    assert chosen == {("a", "c"), ("b", "c")}
    assert texts(source, captions="random", seed=1) == texts(source, captions="random", seed=1)


def test_bytes_and_none(tmp_path):
    rows = [{"text": "東".encode()}, {"text": None}]
    (tmp_path / "a.parquet").write_bytes(as_parquet(rows))
    assert texts(tmp_path / "a.parquet") == ["東", ""]
    (tmp_path / "a.jsonl").write_text('{"text": ["one", null]}\n{"text": []}\n{"text": NaN}')
    assert texts(tmp_path / "a.jsonl") == ["one", "", ""]


def test_tables_without_a_header(tmp_path):
    (tmp_path / "a.tsv").write_bytes(as_csv(ROWS, "\t", header=False))
    found = read(tmp_path / "a.tsv", header=False, column="2", key_column="1")
    assert found == [(row["file"], row["text"]) for row in ROWS]


def test_a_json_line_may_be_the_caption_itself(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"\n\n{"prompt": "two", "n": 1}\n{"caption": null}\n')
    assert texts(tmp_path / "a.jsonl") == ["one", "two", ""]


def test_a_line_may_contain_any_letter_that_ends_lines_elsewhere(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\u2028still one\r\ntwo\x0bstill two\n".encode())
    assert texts(tmp_path / "a.txt") == ["one\u2028still one", "two\x0bstill two"]


def test_a_large_json_array_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("sd2_clip.dataset.inputs.rows.BUFFER", 7)
    (tmp_path / "a.json").write_text(json.dumps([*TEXTS, {"caption": "x" * 50}], indent=2))
    assert texts(tmp_path / "a.json") == [*TEXTS, "x" * 50]
    (tmp_path / "b.json").write_text(json.dumps({"k": "one", "l": "two"}))
    assert read(tmp_path / "b.json") == [("k", "one"), ("l", "two")]


BROKEN = {
    "absent": (None, "does not exist"),
    "x.docx": (b"PK", "captions are not read from such files"),
    "latin.txt": ("Mönch\n".encode("latin-1"), "is not UTF-8 text .*Save it as UTF-8"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    "list.jsonl": (b"[1]\n", r"line 1: expected an object or a string, not \[1\]"),
    "number.jsonl": (b'{"text": 5}\n', "row 0: the caption is not a text but 5"),
    "two.csv": (b"caption,text\na,b\n", "more than one column .*: caption, text"),
    "none.csv": (b"title,url\na,b\n", r"Columns: title, url\. .*--column"),
    "commas.csv": (b"file,text\n1,a boat, sailing\n", "line 2: 3 fields, but 2 columns"),
    "short.csv": (b"text,file\na,1\nb\n", "line 3: 1 fields, but 2 columns"),
    "quote.tsv": (b'text\tfile\n"a\t1\nb\t2\n', "unexpected end of data"),
    "twice.csv": (b"text,text\na,b\n", "two columns have the same name"),
    "broken.parquet": (b"PAR1 and so on", "cannot be read as parquet"),
    "broken.arrow": (b"ARROW1 and so on", "cannot be read as Arrow"),
    "broken.tar": (b"not a tar" * 100, "cannot be read"),
    "broken.json": (b'["one", "two"', "not JSON"),
    "text.json": (b'"one"', "expected a JSON array or object"),
    "broken.txt.gz": (b"\x1f\x8b and so on", "cannot be read"),
    "empty.txt": (b"", "contains no captions"),
    "empty folder": ((), "contains no captions"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named(name, tmp_path):
    data, message = BROKEN[name]
    path = tmp_path / name
    if data == ():
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    with pytest.raises(CaptionsError, match=message) as error:
        read(path)
    named = str(tmp_path) if name in ("empty.txt", "empty folder") else name
    assert named in str(error.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSON_LINES)
    with pytest.raises(CaptionsError, match=r"no column 'title'\. Columns: file, text\."):
        read(tmp_path / "a.jsonl", column="title")


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(
        OptionError, match=r"captions 'last' is unknown\. Choose first, all, random"
    ):
        ReadOptions(captions="last")
    with pytest.raises(OptionError, match=r"caption_lines 'last' is unknown\. Choose all, first"):
        ReadOptions(caption_lines="last")


def test_an_input_that_changes_while_it_is_read_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_bytes(LINES)
    _, reader, found = fragments(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"short\n")
    with pytest.raises(CaptionsError, match="was changed while it was read"):
        reader.read(found[1])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CaptionsError, match=r"a\.txt was removed"):
        reader.read(found[1])
