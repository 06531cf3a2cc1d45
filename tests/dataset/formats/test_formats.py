"""Every output format is read back by its own reader, with the values of Encode SD2 Text."""

import hashlib
import json
import os
import subprocess
import tarfile
from itertools import pairwise

import numpy as np
import pytest
import tiny
import torch
from sd2_clip.dataset import CaptionEncoder, EncodedCaptions
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.export_captions import export_captions
from sd2_clip.dataset.formats import FORMATS, make_format
from sd2_clip.dataset.formats.webdataset import member_name
from sd2_clip.sd2.errors import OptionError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is in the extra [dataset]")
from pyarrow import parquet  # noqa: E402

pytestmark = pytest.mark.slow  # whole data sets and files

TEXTS = ["a cat", "a (red:1.2) dog, 東京", "", "word " * 80, "a cat", "v1.0 / x"]
KEYS = ["1.jpg", "b/2.5.jpg", "../3", "4", "5", "6"]
SIZE = 4


def new_encoder(**options):
    return CaptionEncoder(
        tiny.GOLDEN / "tiny_text_encoder.safetensors",
        model_options=tiny.MODEL_OPTIONS,
        device="cpu",
        dtype="fp32",
        **options,
    )


@pytest.fixture
def source(tmp_path):
    rows = [{"key": key, "caption": text} for key, text in zip(KEYS, TEXTS, strict=True)]
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def encode(source, out, format, **options):
    """Encode; returns what ``out`` holds."""
    from sd2_clip.dataset.inputs.captions import ReadOptions

    store = {name: options.pop(name) for name in ("store", "pooled") if name in options}
    encode_captions(
        str(source),
        str(out),
        new_encoder(**store),
        make_format(format, **options),
        fragment_size=SIZE,
        read=ReadOptions(key_column="key"),
    )
    return out


def expected(text, dtype=np.float16):
    """What Encode SD2 Text makes of a text whose brackets have no weight, and the pooled vector."""
    clip = new_encoder().clip
    tokens = clip.tokenize(text, disable_weights=True)
    tokens["h"] = tokens["h"][:1]
    if len(text) > 100:
        tokens["h"] = [[*tokens["h"][0][:76], (49407, 1.0)]]
    cond, pooled = clip.encode_from_tokens(tokens, return_pooled=True)
    return cond[0].numpy().astype(dtype), pooled[0].numpy().astype(dtype)


def assert_values(found, text):
    latents, _ = expected(text, found.dtype)
    np.testing.assert_allclose(found.astype("f4"), latents.astype("f4"), atol=2e-3)


def files(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


OPTIONS = {
    "parquet": {"token_ids": True, "pooled": True},
    "safetensors": {"token_ids": True},
    "mds": {},
    "webdataset": {},
    "simpletuner": {},
    "threestudio": {"store": "fp32", "model_name": "stabilityai/stable-diffusion-2-1-base"},
}


def test_all_formats_are_tried():
    assert OPTIONS.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", FORMATS)
def test_two_runs_write_the_same_bytes_and_a_finished_set_is_not_written_again(
    format, source, tmp_path
):
    first = files(encode(source, tmp_path / "1", format, **OPTIONS[format]))
    assert files(encode(source, tmp_path / "2", format, **OPTIONS[format])) == first
    mtimes = {path: path.stat().st_mtime_ns for path in (tmp_path / "1").rglob("*.*")}
    encode(source, tmp_path / "1", format, **OPTIONS[format])
    unchanged = {path: path.stat().st_mtime_ns for path in mtimes if path.name != "index.json"}
    assert unchanged.items() <= mtimes.items()


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_an_earlier_input_are_pruned(format, source, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(source.read_bytes())
    (folder / "b.jsonl").write_text('{"key": "x", "caption": "something else"}')
    encode(folder, tmp_path / "out", format, **OPTIONS[format])
    (folder / "a.jsonl").unlink()
    options = dict(OPTIONS[format])
    store = {name: options.pop(name) for name in ("store", "pooled") if name in options}
    from sd2_clip.dataset.inputs.captions import ReadOptions

    read = ReadOptions(key_column="key")
    made = make_format(format, **options)
    arguments = (str(folder), str(tmp_path / "out"), new_encoder(**store), made)
    summary = encode_captions(*arguments, fragment_size=SIZE, read=read, prune=True, verify=True)
    assert summary.pruned > 0
    encode(folder, tmp_path / "new", format, **OPTIONS[format])
    (tmp_path / "out" / "README").write_text("mine")
    encode_captions(*arguments, fragment_size=SIZE, read=read, prune=True)
    assert files(tmp_path / "out").keys() - files(tmp_path / "new").keys() == {"README"}


def test_parquet_by_pyarrow(source, tmp_path):
    out = encode(source, tmp_path / "out", "parquet", token_ids=True, pooled=True)
    names = json.loads((out / "manifest.json").read_text())["fragments"]
    table = pyarrow.concat_tables(parquet.read_table(out / name) for name, _ in names)
    assert table["caption_latents"].type == pyarrow.fixed_shape_tensor(pyarrow.float16(), (77, 32))
    assert table["key"].to_pylist() == KEYS
    assert table["caption"].to_pylist() == TEXTS
    assert table["token_count"].to_pylist()[:3] == [2, 13, 0]
    assert table["truncated"].to_pylist() == [text == TEXTS[3] for text in TEXTS]
    found = table["caption_latents"].combine_chunks().to_numpy_ndarray()
    for text, latents in zip(TEXTS, found, strict=True):
        assert_values(latents, text)
    _, pooled = expected(TEXTS[0])
    found = table["caption_pooled"].combine_chunks().to_numpy_ndarray()[0]
    np.testing.assert_allclose(found.astype("f4"), pooled.astype("f4"), atol=2e-3)
    ids = table["token_ids"].combine_chunks().to_numpy_ndarray()
    assert ids[2].tolist() == [49406, 49407, *[0] * 75]
    settings = json.loads(table.schema.metadata[b"sd2_clip"])
    assert settings["layer"].startswith("3 of 4")


def test_a_row_group_of_parquet_is_read_alone(source, tmp_path):
    source.write_text("".join(f'{{"key": "{n}", "caption": "cat {n}"}}\n' for n in range(40)))
    encode_captions(
        str(source), str(tmp_path / "out"), new_encoder(), make_format("parquet"), fragment_size=40
    )
    (path,) = (tmp_path / "out").glob("captions-*")
    metadata = parquet.ParquetFile(path).metadata
    assert [metadata.row_group(index).num_rows for index in range(3)] == [16, 16, 8]
    columns = [metadata.row_group(0).column(index) for index in range(metadata.num_columns)]
    assert {column.compression for column in columns} == {"UNCOMPRESSED"}
    assert not any(column.has_dictionary_page for column in columns)


def test_nested_parquet_by_datasets(source, tmp_path):
    out = encode(source, tmp_path / "out", "parquet", layout="nested")
    table = parquet.read_table(next(out.glob("captions-*")))
    inner = pyarrow.list_(pyarrow.float16(), 32)
    assert table["caption_latents"].type == pyarrow.list_(inner, 77)
    found = {row["caption"]: row["caption_latents"] for row in EncodedCaptions(out)}
    for text in TEXTS:
        assert_values(found[text].numpy(), text)
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    names = sorted(map(str, out.glob("captions-*.parquet")))
    loaded = datasets.load_dataset("parquet", data_files=names, cache_dir=str(tmp_path / "cache"))
    row = loaded["train"].with_format("numpy")[0]
    assert_values(row["caption_latents"], row["caption"])


@pytest.mark.filterwarnings("ignore")  # webdataset leaves files open
def test_webdataset_by_webdataset(source, tmp_path):
    out = encode(source, tmp_path / "out", "webdataset")
    found = {}
    for path in out.glob("captions-*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    assert {"1%2Ejpg.txt", "1%2Ejpg.caption_latents.npy", "5.txt"} <= found.keys()
    assert found["b/2%2E5%2Ejpg.txt"].decode() == TEXTS[1]
    assert "%2E%2E/3.txt" in found
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    names = sorted(map(str, out.glob("captions-*.tar")))
    rows = list(webdataset.WebDataset(names, shardshuffle=False).decode())
    assert len(rows) == len(TEXTS)
    for row in rows:
        assert row["caption_latents.npy"].dtype == np.float16
        assert_values(row["caption_latents.npy"], row["txt"])


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("", "empty"),
        ("a.b", "a%2Eb"),
        ("a.b/c", "a.b/c"),
        ("/etc/x", "%2F/etc/x"),
        ("../../x", "%2E%2E/%2E%2E/x"),
        ("a%2Eb", "a%252Eb"),
        ("a\\b", "a%5Cb"),
    ],
)
def test_names_in_tars(key, name):
    assert member_name(key) == name


def test_simpletuner_by_its_names(source, tmp_path):
    out = encode(source, tmp_path / "out", "simpletuner")
    assert len(list(out.glob("*.pt"))) == len(set(TEXTS))
    for text in TEXTS:
        name = hashlib.md5(text.encode()).hexdigest() + "-sd2x.pt"
        found = torch.load(out / name, weights_only=True)
        assert list(found) == ["prompt_embeds"]
        assert found["prompt_embeds"].shape == (1, 77, 32)
        assert_values(found["prompt_embeds"][0].numpy(), text)


def test_threestudio_by_its_names(source, tmp_path):
    model = "stabilityai/stable-diffusion-2-1-base"
    out = encode(source, tmp_path / "out", "threestudio", store="fp32", model_name=model)
    views = ("", ", side view", ", front view", ", back view", ", overhead view")
    texts = {text + view for text in TEXTS for view in views}
    assert len(list(out.glob("*.pt"))) == len(texts)
    for text in ["a cat", "", "a cat, overhead view"]:
        name = hashlib.md5(f"{model}-{text}".encode()).hexdigest() + ".pt"
        found = torch.load(out / name, weights_only=True)
        assert (found.dtype, found.shape) == (torch.float32, (77, 32))
        assert_values(found.numpy(), text)


MOSAIC = """
import importlib.machinery, sys, types
try:
    import torchvision
except ImportError:  # the package wants it for data sets of pictures alone
    datasets = types.ModuleType("torchvision.datasets")
    datasets.VisionDataset = object
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.to_tensor = None
    transforms = types.ModuleType("torchvision.transforms")
    transforms.functional = functional
    package = types.ModuleType("torchvision")
    package.datasets, package.transforms = datasets, transforms
    package.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    modules = (package, datasets, transforms, functional)
    sys.modules.update({module.__name__: module for module in modules})
import json
from streaming import StreamingDataset
rows = []
for row in StreamingDataset(local=sys.argv[1], batch_size=1, shuffle=False):
    rows.append({k: v if isinstance(v, str) else v.hex() for k, v in row.items()})
print("ROWS", json.dumps(rows))
"""


@pytest.mark.oracle
@pytest.mark.skipif("MOSAIC_PYTHON" not in os.environ, reason="MOSAIC_PYTHON has no streaming")
@pytest.mark.parametrize("keys", ["latents", "new"])
def test_mds_by_mosaics_reader(keys, source, tmp_path):
    stored = {"store": "fp32", "pooled": True} if keys == "new" else {}
    out = encode(source, tmp_path / "out", "mds", mds_keys=keys, **stored)
    for folder, texts in ((out, TEXTS), (out / "empty", [""])):
        done = subprocess.run(
            [os.environ["MOSAIC_PYTHON"], "-c", MOSAIC, folder],
            capture_output=True,
            text=True,
            check=True,
        )
        (line,) = [one for one in done.stdout.splitlines() if one.startswith("ROWS ")]
        rows = json.loads(line[5:])
        assert sorted(row["caption"] for row in rows) == sorted(texts)
        for row in rows:
            texts = {name: row.pop(name) for name in ("key", "caption")}
            arrays = {name: bytes.fromhex(value) for name, value in row.items()}
            check_mds_row({**texts, **arrays}, keys)


def check_mds_row(row, keys):
    if keys == "latents":
        latents = np.frombuffer(row["caption_latents"], np.float16).reshape(77, 32)
    else:
        latents = np.frombuffer(row["caption_CLIP_LATENTS"], np.float32).reshape(77, 32)
        mask = np.frombuffer(row["caption_CLIP_ATTENTION_MASK"], bool)
        (count,) = map(len, new_encoder().tokenize([row["caption"]]))
        assert mask.tolist() == [position < min(count, 75) + 2 for position in range(77)]
        pooled = np.frombuffer(row["caption_CLIP_POOLED_TEXT"], np.float32)
        np.testing.assert_allclose(pooled, expected(row["caption"], np.float32)[1], atol=1e-5)
    assert_values(latents, row["caption"])


@pytest.mark.parametrize("keys", ["latents", "new"])
def test_mds_by_its_description(keys, source, tmp_path):
    stored = {"store": "fp32", "pooled": True} if keys == "new" else {}
    out = encode(source, tmp_path / "out", "mds", mds_keys=keys, **stored)
    index = json.loads((out / "index.json").read_text())
    texts = []
    for shard in index["shards"]:
        data = (out / shard["raw_data"]["basename"]).read_bytes()
        assert len(data) == shard["raw_data"]["bytes"] <= shard["size_limit"] == 1 << 28
        count, *ends = np.frombuffer(data, np.uint32, shard["samples"] + 2)
        assert count == shard["samples"]
        for start, end in pairwise(ends):
            names = shard["column_names"]
            sizes = np.frombuffer(data[start:], np.uint32, len(names))
            body, row = data[start + 4 * len(names) : end], {}
            for name, size in zip(names, sizes, strict=True):
                row[name], body = body[:size], body[size:]
            row |= {name: row[name].decode() for name in ("key", "caption")}
            assert not body
            texts.append(row["caption"])
            check_mds_row(row, keys)
    assert texts == TEXTS


@pytest.mark.parametrize("source_format", ["parquet", "safetensors"])
@pytest.mark.parametrize("format", ["parquet", "safetensors", "mds", "webdataset", "simpletuner"])
def test_an_export_has_what_encoding_gives(format, source_format, source, tmp_path):
    encoded = encode(source, tmp_path / "encoded", source_format)
    again = encode(source, tmp_path / "again", format)
    export_captions(str(encoded), str(tmp_path / "out"), make_format(format))
    assert sorted(_data(tmp_path / "out")) == sorted(_data(again))
    before = files(tmp_path / "out")
    assert export_captions(str(encoded), str(tmp_path / "out"), make_format(format)).encoded == 0
    assert files(tmp_path / "out") == before


def _data(out):
    """The bytes of all files of embeddings; their names and settings may differ."""
    return [
        data
        for name, data in files(out).items()
        if not name.startswith("_") and name not in ("manifest.json", "index.json")
    ]


def test_what_a_format_cannot_hold_is_said(source, tmp_path):
    for format, options, message in (
        ("parquet", {"store": "bf16"}, r"Parquet has no bf16\. Choose --store fp16"),
        ("webdataset", {"store": "bf16"}, "numpy has no bf16"),
        ("mds", {"store": "fp32"}, "--format mds stores fp16"),
        ("mds", {"mds_keys": "new"}, "add --store fp32 --pooled"),
        ("threestudio", {"store": "fp32"}, "needs --model-name"),
        ("threestudio", {"model_name": "x"}, "threestudio reads fp32"),
        ("safetensors", {"layout": "nested"}, "--layout is an option of --format parquet, not of"),
        ("csv", {}, "format 'csv' is unknown. Choose one of parquet, "),
    ):
        with pytest.raises(OptionError, match=message):
            encode(source, tmp_path / "out", format, **options)
    encoded = encode(source, tmp_path / "encoded", "parquet")
    with pytest.raises(OptionError, match="Use sd2-clip encode --format threestudio"):
        export_captions(
            str(encoded), str(tmp_path / "out"), make_format("threestudio", model_name="x")
        )
    mds = encode(source, tmp_path / "mds", "mds")
    with pytest.raises(OptionError, match=r"format mds, .* reads parquet and safetensors"):
        EncodedCaptions(mds)
