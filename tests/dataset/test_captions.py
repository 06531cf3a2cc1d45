"""Captions from every kind of file that people bring."""

import json

import pytest
from sd2_clip.dataset.captions import CaptionsError, count_captions, read_captions

TEXTS = ["a cat", "a dog, (best:1.2)", "", "東京 “quoted”, 100%"]


def table(suffix, tmp_path):
    """TEXTS in a file of this kind, with the columns ``file`` and ``text`` where there are any."""
    file = tmp_path / f"captions{suffix}"
    rows = [{"file": f"{number}.png", "text": text} for number, text in enumerate(TEXTS)]
    if suffix == ".txt":
        file.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    elif suffix in (".jsonl", ".ndjson"):
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    elif suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=3)
    else:
        mark = "\t" if suffix == ".tsv" else ","
        lines = [f'{row["file"]}{mark}"{row["text"]}"' for row in rows]
        file.write_text("\n".join([f"file{mark}text", *lines, ""]), encoding="utf-8-sig")
    return file


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"])
def test_captions_come_in_order_with_their_numbers(suffix, tmp_path):
    file = table(suffix, tmp_path)
    captions = list(read_captions(file))
    assert [caption.text for caption in captions] == TEXTS
    assert [caption.key for caption in captions] == ["0", "1", "2", "3"]
    assert count_captions(file) in (4, 5)  # a glance counts a heading too


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_a_column_may_be_the_key(suffix, tmp_path):
    captions = list(read_captions(table(suffix, tmp_path), "text", "file"))
    assert [caption.key for caption in captions] == ["0.png", "1.png", "2.png", "3.png"]


def test_a_text_beside_each_picture(tmp_path):
    for name, text in {"b/2.txt": "two\n", "a.txt": "\ufeffone", "b/1.TXT": " x "}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "a.png").touch()
    captions = [(caption.key, caption.text) for caption in read_captions(tmp_path)]
    assert captions == [("a", "one"), ("b/1", "x"), ("b/2", "two")]
    assert count_captions(tmp_path) == 3


def test_tables_of_a_folder_are_one_table(tmp_path):
    table(".jsonl", tmp_path).rename(tmp_path / "b.jsonl")
    table(".csv", tmp_path).rename(tmp_path / "a.csv")
    (tmp_path / ".hidden.csv").write_text("no captions")
    captions = list(read_captions(tmp_path))
    assert [caption.text for caption in captions] == TEXTS * 2
    assert [caption.key for caption in captions] == [str(number) for number in range(8)]


def test_a_json_line_may_be_the_caption_itself(tmp_path):
    (tmp_path / "a.jsonl").write_text('"one"\n\n{"prompt": "two", "n": 1}\n{"caption": null}\n')
    assert [caption.text for caption in read_captions(tmp_path / "a.jsonl")] == ["one", "two", ""]


def test_a_line_may_hold_any_letter_that_ends_lines_elsewhere(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\u2028still one\r\ntwo\x0bstill two\n".encode())
    texts = [caption.text for caption in read_captions(tmp_path / "a.txt")]
    assert texts == ["one\u2028still one", "two\x0bstill two"]


def test_a_folder_with_tables_and_texts_is_asked_about(tmp_path):
    table(".csv", tmp_path)
    (tmp_path / "1.txt").write_text("a cat")
    with pytest.raises(CaptionsError, match=r"tables \(captions\.csv\) and texts \(1\.txt\)"):
        list(read_captions(tmp_path))


BROKEN = {
    "absent": (None, "does not exist"),
    "x.docx": (b"PK", "of no kind that captions are read from"),
    "latin.txt": ("Mönch\n".encode("latin-1"), "is no UTF-8 text .*Save it as UTF-8"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
    "list.jsonl": (b"[1]\n", r"line 1: expected an object or a string, not \[1\]"),
    "number.jsonl": (b'{"text": 5}\n', "line 1: the caption is no text but 5"),
    "two.csv": (b"caption,text\na,b\n", "which column has the captions, caption or text"),
    "none.csv": (
        b"title,url\na,b\n",
        r"There are: title, url\. Name one with --column",
    ),
    "commas.csv": (b"file,text\n1,a boat, sailing\n", "line 2: 3 fields where the heading has 2"),
    "short.csv": (b"text,file\na,1\nb\n", "line 3: 1 fields where the heading has 2"),
    "quote.tsv": (b'text\tfile\n"a\t1\nb\t2\n', "unexpected end of data"),
    "twice.csv": (b"text,text\na,b\n", "two columns have one name"),
    "broken.parquet": (b"PAR1 and so on", "cannot be read as parquet"),
    "empty folder": ((), "holds no captions"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named(name, tmp_path):
    data, message = BROKEN[name]
    path = tmp_path / name
    if data == ():
        path.mkdir()
    elif data is not None:
        path.write_bytes(data)
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
    with pytest.raises(CaptionsError, match=message) as error:
        list(read_captions(path))
    assert str(path) in str(error.value)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    with pytest.raises(CaptionsError, match=r"no column 'title'\. There are: file, text\."):
        list(read_captions(table(".jsonl", tmp_path), "title"))
    with pytest.raises(CaptionsError, match="no columns"):
        list(read_captions(table(".txt", tmp_path), "title"))
