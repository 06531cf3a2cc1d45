"""Data sets at scale, with the tiny encoder: ``make nightly``. Results go to build/nightly.json."""

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import tiny
from interrupted_runs import kill_and_begin_again
from sd2_clip.dataset import EncodedCaptions
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format

pytestmark = pytest.mark.nightly

ROOT = Path(__file__).parents[2]
ONE_LAYER = {"layer": "hidden", "layer_idx": -4}
"""Of the tiny encoder's four: rates are those of all that is not encoding."""
CAPTIONS = int(os.environ.get("NIGHTLY_CAPTIONS", 1_000_000))
KILLS = int(os.environ.get("NIGHTLY_KILLS", 100))


def report(name, value):
    """Print a result, and keep it with those of the other tests."""
    path = ROOT / "build" / "nightly.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**results, name: value}, indent=1))
    print(f"\n{name}: {value}")


def new_encoder(**options):
    return tiny.caption_encoder(**options)


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


def check_flat(curve):
    """Check that memory does not grow; the first points are of a pipeline that fills up."""
    memory = [megabytes for _, megabytes in curve[len(curve) // 5 :]]
    assert len(memory) >= 8
    assert max(memory) - min(memory) < 64


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions")
    yield write_captions(folder / "in", CAPTIONS)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    """All captions, encoded by the local engine; their rate."""
    folder = tmp_path_factory.mktemp("local")
    curve = []

    def progress(summary, rows):
        if summary.encoded * 10 // CAPTIONS > len(curve):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            curve.append((summary.encoded, round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)))

    encoder, started = new_encoder(**ONE_LAYER), time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.get_num_threads", lambda: 1)  # as a worker of Ray has
        encode_captions(str(source), str(folder / "out"), encoder, make_format(), progress=progress)
    rate = CAPTIONS / (time.monotonic() - started)
    report("captions a second, local, 1 thread", rate)
    report("MB by captions, local", curve)
    check_flat(curve)
    yield folder / "out", rate
    shutil.rmtree(folder)


RAY = """
import json, sys, time, tiny, ray
from pathlib import Path
from sd2_clip.dataset import CaptionEncoder
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.ray_engine import RayEngine

source, out, workers, captions, options = sys.argv[1:]
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
encoder = CaptionEncoder(
    tiny.GOLDEN / "tiny_text_encoder.safetensors",
    model_options=tiny.MODEL_OPTIONS,
    device="cpu",
    dtype="fp32",
    **json.loads(options),
)
curve = []
def megabytes():
    # The actors of this machine, whose command lines begin with their class.
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker"):
                found.append(int((folder / "statm").read_text().split()[1]) // 256)
        except OSError:
            pass
    return max(found, default=0)
def progress(summary, rows):
    if summary.encoded * 10 // int(captions) > len(curve):
        curve.append((summary.encoded, megabytes()))
started = time.monotonic()
engine = RayEngine(workers=int(workers))
summary = encode_captions(
    source, out, encoder, make_format("parquet"), engine=engine, progress=progress
)
rate = summary.encoded / (time.monotonic() - started)
print("RESULT", json.dumps({"rate": rate, "curve": curve}))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ray_writes_the_same_bytes_and_its_memory_is_flat(workers, source, local, tmp_path):
    pytest.importorskip("ray", reason="ray is in the extra [ray]")
    expected, local_rate = local
    (tmp_path / "sd2_clip").symlink_to(ROOT, target_is_directory=True)
    path = os.pathsep.join([str(tmp_path), str(Path(tiny.__file__).parent)])
    arguments = [source, tmp_path / "ray", str(workers), str(CAPTIONS), json.dumps(ONE_LAYER)]
    done = subprocess.run(
        [sys.executable, "-c", RAY, *arguments],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    result = json.loads(line.removeprefix("RESULT "))
    report(f"captions a second, Ray, {workers} workers", result["rate"])
    report(f"rate of Ray, {workers} workers / local", result["rate"] / local_rate)
    report(f"MB of a worker by captions, {workers} workers", result["curve"])
    check_flat(result["curve"])
    assert digests(tmp_path / "ray") == digests(expected)
    shutil.rmtree(tmp_path / "ray")


def test_a_finished_set_is_checked_in_seconds_and_read_as_fast_shuffled(source, local):
    # The last test of this set: it adds a file.
    out, _ = local
    encoder = new_encoder(**ONE_LAYER)
    started = time.monotonic()
    summary = encode_captions(str(source), str(out), encoder, make_format())
    seconds = time.monotonic() - started
    report("seconds to check a finished set", seconds)
    assert summary.encoded == 0
    assert seconds < 30

    (source / "0005.jsonl").write_text('{"caption": "one more"}\n')
    assert encode_captions(str(source), str(out), encoder, make_format()).encoded == 1
    encoded = EncodedCaptions(out)
    assert len(encoded) == CAPTIONS + 1
    rates = {}
    for name, rows in (("sequential", iter(encoded)), ("shuffled", encoded.shuffled(1))):
        started = time.monotonic()
        count = sum(1 for _ in islice(rows, 100_000))
        rates[name] = count / (time.monotonic() - started)
    report("rows a second", rates)
    assert rates["shuffled"] * 3 > rates["sequential"]


def test_kills_lose_nothing_double_nothing_and_change_no_byte(tmp_path):
    source = tmp_path / "captions.txt"
    source.write_text("".join(f"picture {number} of a cat\n" for number in range(200 * KILLS)))
    report("kills", kill_and_begin_again(source, tmp_path / "out", tmp_path, KILLS, seed=2))
    encode_captions(
        str(source), str(tmp_path / "in one go"), new_encoder(), make_format(), fragment_size=8
    )
    assert digests(tmp_path / "out") == digests(tmp_path / "in one go")
    assert not list((tmp_path / "out").rglob("*.partial"))
