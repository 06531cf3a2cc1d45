"""A real ComfyUI, started headless and driven through its HTTP API.

On the CPU; on the GPU if COMFYUI_ON_GPU is set.
"""

from __future__ import annotations

import compileall
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PLUGIN = Path(__file__).parent.parent.parent
HELPER = Path(__file__).parent / "comfyui_helper_nodes.py"

Link = list[Any]


def frontend_flags(installation: Path, frontends: Mapping[str, Path]) -> list[str]:
    """Return what makes a ComfyUI serve the frontend that it asks for, if *frontends* has it."""
    requirements = (installation / "requirements.txt").read_text(encoding="utf-8")
    asked = re.search(r"^comfyui-frontend-package==(\S+)", requirements, re.MULTILINE)
    folder = frontends.get(asked[1]) if asked else None
    return [] if folder is None else ["--front-end-root", str(folder)]


class PromptError(Exception):
    """ComfyUI refused a prompt or a node raised; the text is what ComfyUI said."""


class Graph:
    """A prompt in the making: ``graph.add("CLIPTextEncode", clip=loader.out(0), text="")``."""

    def __init__(self) -> None:
        self.prompt: dict[str, Any] = {}

    def add(self, class_type: str, **inputs: Any) -> Node:
        key = str(len(self.prompt) + 1)
        self.prompt[key] = {"class_type": class_type, "inputs": inputs}
        return Node(key)


class Node:
    def __init__(self, key: str) -> None:
        self.key = key

    def out(self, slot: int = 0) -> Link:
        return [self.key, slot]


class ComfyUI:
    """One server process with folders of its own; nothing is written to the installation."""

    def __init__(
        self,
        installation: Path,
        base: Path,
        *flags: str,
        config: dict[str, int] | None = None,
        packs: Sequence[Path] = (),
        seconds: float = 240,
        python: str = sys.executable,
    ) -> None:
        """*config* overlays the sizes of the text encoder, in core and in our plugin alike;
        *python* is the interpreter that runs ComfyUI."""
        self.installation = installation
        self.output = base / "output"
        self.models = base / "models"
        self.log = base / "log.txt"
        for name in ("custom_nodes", "models", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        self._install(base / "custom_nodes", config, packs)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        device = [] if os.environ.get("COMFYUI_ON_GPU") else ["--cpu"]
        command = [python, "main.py", *device, "--port", str(port), *self._folders(base)]
        # Some packs load nothing under pytest.
        environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *flags],
                cwd=installation,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self._wait_until_up(seconds)

    def _install(
        self, custom_nodes: Path, config: dict[str, int] | None, packs: Sequence[Path]
    ) -> None:
        for pack in packs:
            (custom_nodes / pack.name).symlink_to(pack, target_is_directory=True)
        shutil.copy(HELPER, custom_nodes / HELPER.name)
        plugin = custom_nodes / "SD2-CLIP"
        if config is None:
            plugin.symlink_to(PLUGIN, target_is_directory=True)
            return
        # build/ has a link to the repository itself, which copying would follow for ever.
        ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "docs", "build")
        shutil.copytree(PLUGIN, plugin, ignore=ignored)
        sizes = plugin / "sd2" / "sd2_clip_config.json"
        sizes.write_text(json.dumps(json.loads(sizes.read_text()) | config))
        compileall.compile_dir(plugin, quiet=1)  # as after any first start
        small = custom_nodes / "small.disabled"  # a name that ComfyUI passes over
        small.mkdir()
        shutil.copy(sizes, small)

    def _folders(self, base: Path) -> list[str]:
        flags = (self.installation / "comfy" / "cli_args.py").read_text(encoding="utf-8")
        database = ["--database-url", "sqlite:///:memory:"] if "--database-url" in flags else []
        if "--base-directory" in flags:
            return ["--base-directory", str(base), *database]
        extra = base / "extra_model_paths.yaml"
        kinds = ("custom_nodes", "checkpoints", "clip", "loras", "embeddings", "diffusers")
        lines = [f"  {k}: {k if k == 'custom_nodes' else f'models/{k}'}" for k in kinds]
        extra.write_text("\n".join(["tests:", f"  base_path: {base}", *lines]), encoding="utf-8")
        folders = [f"--{k}-directory={base / k}" for k in ("input", "output", "temp")]
        return [*folders, "--extra-model-paths-config", str(extra)]

    def _wait_until_up(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.get("/prompt")
            except OSError:
                time.sleep(0.2)
            else:
                return
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.log_text()[-3000:]}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def log_text(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def _ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            with error:
                raise PromptError(error.read().decode()) from None

    def get(self, path: str) -> Any:
        return self._ask(path)

    def post(self, path: str, body: Any) -> Any:
        return self._ask(path, body)

    def nodes(self) -> dict[str, Any]:
        """``/object_info``: what there is to be tested in this version."""
        return dict(self.get("/object_info"))

    def run(self, graph: Graph, seconds: float = 300) -> dict[str, Any]:
        """Run to the end; the outputs by node id. Raises PromptError with ComfyUI's words."""
        log_start = len(self.log_text())
        prompt_id = self.post("/prompt", {"prompt": graph.prompt})["prompt_id"]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is None:
                time.sleep(0.02)
                continue
            status = entry.get("status")
            log = self.log_text()[log_start:]
            if status and status["status_str"] != "success":
                said = [m[1]["exception_message"] for m in status["messages"] if "error" in m[0]]
                raise PromptError("\n".join(said) or log)
            if not status and "!!! Exception during processing" in log:
                raise PromptError(log)  # 2023: only the log tells
            return dict(entry["outputs"])
        raise PromptError(f"still running after {seconds} s:\n{self.log_text()[-2000:]}")
