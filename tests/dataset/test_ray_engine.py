"""Ray writes what the local engine writes, also when it loses a worker or has several nodes."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.encode_distinct import encode_distinct
from sd2_clip.dataset.formats import make_format

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is in the extra [ray]")

RUN = """
import json, os, signal, sys, time
import ray
import tiny
from sd2_clip.dataset import CaptionEncoder
from sd2_clip.dataset.encode_captions import encode_captions
from sd2_clip.dataset.encode_distinct import encode_distinct
from sd2_clip.dataset.formats import make_format
from sd2_clip.dataset.ray_engine import RayEngine, EncodeFragments
from sd2_clip.sd2.errors import SD2ClipError

source, out, mode = sys.argv[1:]
if mode == "nodes":
    from ray.cluster_utils import Cluster
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
else:
    small = {"include_dashboard": False, "object_store_memory": 100_000_000}
    ray.init("local", num_cpus=2, log_to_driver=False, **small)
call = EncodeFragments.__call__
def killed_once(self, batch):
    if mode == "kill" and not os.path.exists(out + ".killed"):
        open(out + ".killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, batch)
if mode == "kill":
    EncodeFragments.__call__ = killed_once
    import sd2_clip.dataset.ray_engine as engine
    ray.cloudpickle.register_pickle_by_value(engine)
encoder = CaptionEncoder(
    tiny.GOLDEN / "tiny_text_encoder.safetensors",
    model_options=tiny.MODEL_OPTIONS,
    device="cpu",
    dtype="fp32",
)
try:
    encode = encode_distinct if mode == "distinct" else encode_captions
    summary = encode(
        source, out, encoder, make_format("parquet"), fragment_size=8, engine=RayEngine(workers=2)
    )
    result = [summary.encoded, summary.missing]
except SD2ClipError as error:
    result = str(error)
finally:
    ray.shutdown()
    if mode == "nodes":
        cluster.shutdown()
print("RESULT", json.dumps(result))
"""


def run(source, out, mode, folder):
    (folder / "sd2_clip").unlink(missing_ok=True)
    (folder / "sd2_clip").symlink_to(Path(__file__).parents[2], target_is_directory=True)
    done = subprocess.run(
        [sys.executable, "-c", RUN, source, out, mode],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(folder), str(Path(tiny.__file__).parent)]),
            "OMP_NUM_THREADS": "2",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def files(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("mode", ["one machine", "kill", "nodes"])
def test_ray_writes_what_the_local_engine_writes(mode, tmp_path, monkeypatch):
    source = tmp_path / "captions.txt"
    source.write_text("".join(f"picture {number} of a cat\n" for number in range(200)))
    assert run(source, tmp_path / "ray", mode, tmp_path) == [200, 0]
    assert (tmp_path / "ray.killed").exists() == (mode == "kill")
    threads = json.loads((tmp_path / "ray" / "_plan.json").read_text())["threads"]
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    encoder = tiny.caption_encoder()
    encode_captions(
        str(source), str(tmp_path / "local"), encoder, make_format("parquet"), fragment_size=8
    )
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert run(source, tmp_path / "ray", "one machine", tmp_path) == [0, 0]


def test_ray_writes_the_distinct_captions_that_the_local_engine_writes(tmp_path, monkeypatch):
    source = tmp_path / "captions.txt"
    source.write_text("".join(f"picture {number % 90} of a cat\n" for number in range(200)))
    assert run(source, tmp_path / "ray", "distinct", tmp_path) == [90, 0]
    threads = json.loads((tmp_path / "ray" / "keys" / "_plan.json").read_text())["threads"]
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    encoder = tiny.caption_encoder()
    encode_distinct(
        str(source), str(tmp_path / "local"), encoder, make_format("parquet"), fragment_size=8
    )
    found, expected = files(tmp_path / "ray"), files(tmp_path / "local")
    for one in (found, expected):
        del one["embeddings/_plan.json"]  # it names the folder that it reads
    assert found == expected


def test_an_error_of_a_worker_is_said_as_it_is(tmp_path):
    source = tmp_path / "captions.jsonl"
    source.write_text('"one"\n' * 30 + '{"caption": 5}\n')
    message = run(source, tmp_path / "ray", "one machine", tmp_path)
    assert message == "captions.jsonl, row 30: the caption is not a text but 5."
