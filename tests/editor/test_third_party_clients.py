"""Programs that other people wrote for ComfyUI, against the editor's server.

Each test is skipped where its client is not installed; ``.ci/browser`` installs them all.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from editor_client import Client, EditorFiles
from editor_server import serving

NODE_CLIENT = Path(__file__).parent.parent.parent / "build" / "npm" / "node_modules"

PROMPT = {
    "1": {"class_type": "Number", "inputs": {"value": 7}, "_meta": {"title": "A number"}},
    "2": {"class_type": "Show", "inputs": {"value": ["1", 0]}, "_meta": {"title": "Show"}},
}


@pytest.fixture
def address(client: Client) -> Iterator[str]:
    with serving(client.editor) as address:
        yield address


def run_python(code: str, *arguments: str) -> Any:
    """The JSON that a script prints: in a process of its own, because clients change globals."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_comfy_lint_accepts_a_good_prompt_and_finds_faults(
    address: str, files: EditorFiles
) -> None:
    lint = shutil.which("comfy-lint", path=Path(sys.executable).parent)
    if lint is None:
        pytest.skip("comfy-lint is not installed")
    bad = json.loads(json.dumps(PROMPT))
    bad["2"]["inputs"] = {}
    bad["3"] = {"class_type": "Nothing", "inputs": {}}
    good_file = files.write("good.json", json.dumps(PROMPT))
    bad_file = files.write("bad.json", json.dumps(bad))

    def check(file: Path) -> subprocess.CompletedProcess[str]:
        command = [lint, "--server", address, "--strict", "--color", "never", str(file)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    good = check(good_file)
    assert good.returncode == 0, good.stdout + good.stderr
    found = check(bad_file)
    assert found.returncode != 0
    assert "missing-required" in found.stdout
    assert "unknown-node" in found.stdout


def test_comfy_headless_runs_a_prompt(address: str) -> None:
    pytest.importorskip("comfy_headless")
    answer = run_python(
        """
import json, sys
from comfy_headless import ComfyClient
client = ComfyClient(base_url=sys.argv[1])
prompt = json.loads(sys.argv[2])
assert client.is_online()
prompt_id = client.queue_prompt(prompt)
done = client.wait_for_completion(prompt_id, timeout=30)
print(json.dumps([client.get_history(prompt_id), client.get_queue(), str(done)]))
""",
        address,
        json.dumps(PROMPT),
    )
    assert "it is 7" in json.dumps(answer[0])


def test_comfy_api_simplified_runs_a_prompt(address: str) -> None:
    pytest.importorskip("comfy_api_simplified")
    answer = run_python(
        """
import asyncio, json, sys
from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
api = ComfyApiWrapper(sys.argv[1] + "/")
workflow = ComfyWorkflowWrapper(json.loads(sys.argv[2]))
workflow.set_node_param("A number", "value", 8)
prompt_id, _ = asyncio.run(api.queue_prompt_and_wait(workflow))
print(json.dumps(api.get_history(prompt_id)[prompt_id]["outputs"]))
""",
        address,
        json.dumps(PROMPT),
    )
    assert answer["2"]["text"] == ["it is 8"]


def test_stable_canvas_client_runs_a_prompt(address: str, files: EditorFiles) -> None:
    node = shutil.which("node")
    if node is None or not (NODE_CLIENT / "@stable-canvas" / "comfyui-client").is_dir():
        pytest.skip("@stable-canvas/comfyui-client is not installed in build/npm")
    script = files.write(
        "client.cjs",
        """
const { Client } = require(process.argv[2] + "/@stable-canvas/comfyui-client");
const WebSocket = require(process.argv[2] + "/ws");
const client = new Client({ api_host: new URL(process.argv[3]).host, WebSocket });
(async () => {
  await client.connect();
  const done = await client.enqueue(JSON.parse(process.argv[4]), { disable_random_seed: true });
  const history = await client.getHistory();
  console.log(JSON.stringify([done.prompt_id, history]));
  client.close();
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
""",
    )
    done = subprocess.run(
        [node, str(script), str(NODE_CLIENT), address, json.dumps(PROMPT)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "it is 7" in done.stdout
