"""Runs of an encoding function in processes of their own, killed at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

RUN = """
import sys
from sd2_clip.dataset import CaptionEncoder
from sd2_clip.dataset.{function} import {function}
from sd2_clip.dataset.formats import make_format
import tiny
encoder = CaptionEncoder(
    tiny.GOLDEN / "tiny_text_encoder.safetensors",
    model_options=tiny.MODEL_OPTIONS,
    device="cpu",
    dtype="fp32",
)
print("started", flush=True)
{function}(*sys.argv[1:], encoder, make_format("parquet"), fragment_size=8)
print("finished", flush=True)
"""


def start(source, out, folder, function):
    (folder / "sd2_clip").unlink(missing_ok=True)
    (folder / "sd2_clip").symlink_to(Path(__file__).parents[2], target_is_directory=True)
    path = os.pathsep.join([str(folder), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", RUN.replace("{function}", function), source, out],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_and_begin_again(source, out, folder, kills, *, seed, function="encode_captions"):
    """Kill the process group of a run *kills* times at random moments, then let one finish.

    Return how many runs were killed: fewer if all was done before.
    """
    moments = random.Random(seed)
    killed = 0
    while killed < kills:
        with start(source, out, folder, function) as process:
            assert process.stdout.readline() == "started\n"
            time.sleep(moments.uniform(0.05, 1.5))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            elif killed:
                break  # it was finished; all that is left is to compare
    with start(source, out, folder, function) as process:
        assert "finished" in process.communicate()[0]
    return killed
