# Two commands set everything up on a machine that has Python 3.10 or newer and nothing else:
#   make demo    encodes a first prompt without ComfyUI (CHECKPOINT=file for a real SD2 file)
#   make test    runs every check
PYTHON ?= python3
# A fixed CPU-capable torch for these two environments only; users' own torch is never touched.
TORCH := torch==2.13.0
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-oracles test-engines nightly lint bench clean

demo: .venv/demo/ready
	.venv/demo/bin/sd2-clip demo --output demo $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

# The real frontend in a browser: .ci/browser. Heavy peers: make test-oracles.
test: .venv/test/ready lint
	.venv/test/bin/python -m pytest -m "not browser and not oracle and not nightly"

# open_clip brings torchvision, which must fit torch: PyPI's fits the pinned one.
test-oracles: .venv/test/ready
	.venv/test/bin/python $(PIP) open_clip_torch "$(TORCH)"
	.venv/test/bin/python -m pytest -m oracle

# Data sets on Ray, on an S3 server, and through other programs' readers. Set MOSAIC_PYTHON to a
# Python with mosaicml-streaming, which cannot be installed beside a current torch, for its reader.
.venv/engines/ready: pyproject.toml
	$(PYTHON) -m venv .venv/engines
	.venv/engines/bin/python $(PIP) "pip>=25.1" "$(TORCH)"
	.venv/engines/bin/python $(PIP) --group test --group engines --editable ".[dataset]"
	touch $@

test-engines: .venv/engines/ready
	.venv/engines/bin/python -m pytest tests/dataset/test_ray_engine.py tests/dataset/test_object_store.py tests/dataset/formats

# Scale: 10^6 captions, 100 kills, Ray beside the local engine. Hours.
nightly: .venv/engines/ready
	.venv/engines/bin/python -m pytest -m nightly -s tests/nightly

lint: .venv/test/ready
	.venv/test/bin/ruff check .
	.venv/test/bin/ruff format --check .
	# The repository's folder may have any name; mypy wants the package's.
	mkdir -p build/mypy && ln -sfn "$(CURDIR)" build/mypy/sd2_clip
	cd build/mypy && MYPYPATH=. "$(CURDIR)/.venv/test/bin/mypy" --config-file "$(CURDIR)/pyproject.toml" -p sd2_clip

# COMFYUI_DIR=folder COMFYUI_PYTHON=python that runs it: compares with ComfyUI too.
bench: .venv/test/ready
	.venv/test/bin/python -m benchmarks $(BENCH)
	.venv/test/bin/python -m benchmarks.graph

.venv/demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv/demo
	.venv/demo/bin/python $(PIP) "$(TORCH)"
	.venv/demo/bin/python $(PIP) --editable .
	touch $@

.venv/test/ready: pyproject.toml
	$(PYTHON) -m venv .venv/test
	.venv/test/bin/python $(PIP) "pip>=25.1" "$(TORCH)"
	.venv/test/bin/python $(PIP) --group test --editable ".[editor,dataset]"
	touch $@

clean:
	rm -rf .venv build demo
