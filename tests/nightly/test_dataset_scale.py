"""Data sets at scale, with the tiny encoder: ``make nightly``. Results go to build/nightly.json."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from interrupted_runs import kill_and_begin_again
from sd2_clip.dataset import CaptionEncoder, EncodedCaptions
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
CAPTIONS = int(os.environ.get("NIGHTLY_CAPTIONS", 1_000_000))
KILLS = int(os.environ.get("NIGHTLY_KILLS", 100))


def report(name, value):
    """Print a result, and keep it with those of the other tests."""
    path = ROOT / "build" / "nightly.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**results, name: value}, indent=1))
    print(f"\n{name}: {value}")


def new_encoder():
    return CaptionEncoder(
        tiny.GOLDEN / "tiny_text_encoder.safetensors",
        model_options=tiny.MODEL_OPTIONS,
        device="cpu",
        dtype="fp32",
    )


def write_captions(folder, count, files=10):
    """Captions in several files of JSON lines, one in ten of them twice."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        with (folder / f"{number:03}.jsonl").open("w") as file:
            for row in range(count // files):
                index = row - 1 if row % 10 == 9 else row
                caption = f"photo {index} of a small cat on mat {number}, {index % 977} mm"
                file.write(f"{json.dumps({'caption': caption})}\n")
    return folder


def digests(out):
    """The digests of all files of embeddings, from their sidecars."""
    return {
        file["name"]: file["sha256"]
        for path in out.glob("_done/*.json")
        for file in json.loads(path.read_text())["files"]
    }


def test_memory_is_flat_and_a_finished_set_is_checked_in_seconds(tmp_path):
    source = write_captions(tmp_path / "in", CAPTIONS)
    curve = []

    def progress(summary, rows):
        if summary.encoded * 50 // CAPTIONS > len(curve):
            curve.append((summary.encoded, peak()))

    def peak():
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    format = make_format("parquet")
    started = time.monotonic()
    encode_captions(str(source), str(tmp_path / "out"), new_encoder(), format, progress=progress)
    report("captions a second, local", CAPTIONS / (time.monotonic() - started))
    report("peak MB by captions", curve)
    # The first files bring the memory of a pipeline that is full.
    assert curve[-1][1] - curve[len(curve) // 5][1] < 64

    started = time.monotonic()
    summary = encode_captions(str(source), str(tmp_path / "out"), new_encoder(), format)
    seconds = time.monotonic() - started
    report("seconds to check a finished set", seconds)
    assert summary.encoded == 0
    assert seconds < 30

    (source / "0005.jsonl").write_text('{"caption": "one more"}\n')
    assert encode_captions(str(source), str(tmp_path / "out"), new_encoder(), format).encoded == 1
    encoded = EncodedCaptions(tmp_path / "out")
    assert len(encoded) == CAPTIONS + 1
    rates = {}
    for name, rows in (("sequential", iter(encoded)), ("shuffled", encoded.shuffled(1))):
        started = time.monotonic()
        rates[name] = sum(1 for _ in rows) / (time.monotonic() - started)
    report("rows a second", rates)
    assert rates["shuffled"] * 3 > rates["sequential"]


def test_kills_lose_nothing_double_nothing_and_change_no_byte(tmp_path):
    source = tmp_path / "captions.txt"
    source.write_text("".join(f"picture {number} of a cat\n" for number in range(200 * KILLS)))
    kill_and_begin_again(source, tmp_path / "out", tmp_path, KILLS, seed=2)
    encode_captions(
        str(source), str(tmp_path / "in one go"), new_encoder(), make_format(), fragment_size=8
    )
    assert digests(tmp_path / "out") == digests(tmp_path / "in one go")
    assert not list((tmp_path / "out").rglob("*.partial"))


RAY = """
import sys, time, tiny, ray
from sd2_clip.dataset import CaptionEncoder
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.ray_engine import RayEngine

source, out, workers = sys.argv[1:]
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
encoder = CaptionEncoder(
    tiny.GOLDEN / "tiny_text_encoder.safetensors",
    model_options=tiny.MODEL_OPTIONS,
    device="cpu",
    dtype="fp32",
)
started = time.monotonic()
engine = RayEngine(workers=int(workers))
summary = encode_captions(source, out, encoder, make_format("parquet"), engine=engine)
print("RESULT", summary.encoded / (time.monotonic() - started))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_writes_the_same_bytes(workers, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="ray is in the extra [ray]")
    source = write_captions(tmp_path / "in", CAPTIONS // 10)
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    path = os.pathsep.join([str(tmp_path), str(Path(tiny.__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", RAY, source, tmp_path / "ray", str(workers)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report(f"captions a second, Ray, {workers} workers", float(done.stdout.split()[-1]))
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    started = time.monotonic()
    encode_captions(str(source), str(tmp_path / "local"), new_encoder(), make_format("parquet"))
    report("captions a second, local, 1 thread", CAPTIONS // 10 / (time.monotonic() - started))
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    shutil.rmtree(tmp_path)
