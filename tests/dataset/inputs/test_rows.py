"""Rows of tables that were made to fill the memory are refused with their place."""

import gzip
import io
import tarfile

import hostile_costs
import pytest
from sd2_clip.dataset.fragments import open_parquet
from sd2_clip.dataset.inputs.captions import CaptionsError, ReadOptions
from sd2_clip.dataset.inputs.rows import decompressed, kind_of, rows
from sd2_clip.dataset.storage import Folder

LONG = 9 << 20


def read(name: str, data: bytes) -> list:
    kind, _ = kind_of(name)
    assert kind is not None
    return list(rows(decompressed(io.BytesIO(data), name), name, kind, ReadOptions()))


@pytest.mark.parametrize(
    ("name", "data", "where"),
    [
        ("a.txt.gz", b"a\n" + b"x" * LONG, "a.txt.gz, line 2"),
        ("a.jsonl.gz", b'"a"\n' + b" " * LONG, "a.jsonl.gz, line 2"),
        ("a.json.gz", b'["a", "' + b"x" * LONG + b'"]', "a.json.gz"),
        ("a.csv.gz", b"x" * LONG, "a.csv.gz, line 1"),
        ("a.csv.gz", b'caption\na\n"' + b"x\n" * LONG, "a.csv.gz, line"),
        ("a.csv.gz", b"caption\na\n" + b'"\n",' * LONG, "a.csv.gz, line"),
        ("a.tar.gz", hostile_costs.tar_of(("a.txt", b"x" * LONG)), "a.tar.gz, a.txt"),
    ],
    ids=["line", "row", "text", "first line", "field", "fields", "member"],
)
def test_rows_are_bounded(name, data, where):
    with pytest.raises(CaptionsError) as raised:
        read(name, gzip.compress(data, 1))
    assert where in str(raised.value)
    assert "longer than 8,388,608 bytes" in str(raised.value) or "field larger" in str(raised.value)


def test_long_rows_within_the_limit_are_read():
    text = "x" * (7 << 20)
    assert read("a.txt.gz", gzip.compress(text.encode(), 1))[0].values["caption"] == text
    assert read("a.json", f'["{text}"]'.encode())[0].values["caption"] == text
    assert read("a.csv", f'caption\n"{text}"\n'.encode())[0].values["caption"] == text


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_headers_of_a_tar_are_refused(kind):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        archive.addfile(tarfile.TarInfo("x" * (2 << 20) + ".txt"))
    with pytest.raises(CaptionsError, match=r"a header of 2,097,\d\d\d bytes"):
        read("a.tar", file.getvalue())


def test_headers_of_headers_are_refused():
    with pytest.raises(CaptionsError, match=r"a\.tar cannot be read"):
        read("a.tar", hostile_costs.pax_header() * 5_000)


def test_rows_without_bytes_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    with pytest.raises(CaptionsError, match="1,000,000,000 rows in 0 bytes"):
        read("a.arrow", hostile_costs.null_batches(0))
    table = pyarrow.table({"caption": pyarrow.nulls(2_000_000, pyarrow.string())})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2_000_000)
    with pytest.raises(CaptionsError, match=r"groups of 2,000,000 rows in \d,\d\d\d bytes"):
        open_parquet(Folder(str(tmp_path)), "a.parquet")


def test_text_of_a_parquet_that_is_not_utf8_is_named(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    from sd2_clip.dataset.inputs.find import find_inputs
    from sd2_clip.dataset.read_fragment import check_first_caption

    data = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"caption": data}), tmp_path / "a.parquet")
    options = ReadOptions()
    inputs = find_inputs(str(tmp_path / "a.parquet"), Folder(str(tmp_path / "out")), options)
    with pytest.raises(CaptionsError, match=r"a\.parquet cannot be read"):
        check_first_caption(inputs, options)
