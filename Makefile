# Two commands set everything up on a machine that has Python 3.10 or newer and nothing else:
#   make demo    encodes a first prompt without ComfyUI (CHECKPOINT=file for a real SD2 file)
#   make test    runs the checks
PYTHON ?= python3
# A fixed CPU-capable torch for these two environments only; users' own torch is never touched.
TORCH := torch==2.13.0
PIP := -m pip install --quiet --disable-pip-version-check
PYTEST := .venv/test/bin/python -m pytest
# Two processes on two cores: threads of their own would only wait for each other.
IN_PARALLEL := OMP_NUM_THREADS=1 $(PYTEST) -n 2
# What needs a browser, a heavy peer or an hour has commands of its own.
ELSEWHERE := not browser and not oracle and not nightly

.PHONY: help demo test test-fast test-oracles test-comfyui test-engines hostile nightly lint format bench clean

help: ## List the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|'

demo: .venv/demo/ready ## Encode a first prompt without ComfyUI (CHECKPOINT=file for a real one)
	.venv/demo/bin/sd2-clip demo --output demo $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

test: .venv/test/ready lint ## Run the checks: lint, types and all tests but the browser's
	$(IN_PARALLEL) -m "$(ELSEWHERE)"

test-fast: .venv/test/ready ## Run what takes less than a minute: no real sizes, no commands, no browser
	$(IN_PARALLEL) -m "$(ELSEWHERE) and not full_size and not slow and not comfyui"

# open_clip brings torchvision, which must fit torch: PyPI's fits the pinned one.
test-oracles: .venv/test/ready ## Compare with heavy peers such as open_clip
	.venv/test/bin/python $(PIP) open_clip_torch "$(TORCH)"
	$(PYTEST) -m oracle

test-comfyui: ## Run our nodes in a real ComfyUI: COMFYUI_DIR=folder COMFYUI_PYTHON=python that runs it
	"$(COMFYUI_PYTHON)" -m pytest tests/comfyui $(COMFYUI_TESTS)

# Set MOSAIC_PYTHON to a Python with mosaicml-streaming, which cannot be installed beside a current
# torch, for its reader.
test-engines: .venv/engines/ready ## Encode data sets on Ray, on object stores, and for other programs' readers
	.venv/engines/bin/python -m pytest tests/dataset/test_ray_engine.py tests/dataset/test_object_store.py tests/dataset/test_google_storage.py tests/dataset/formats

hostile: .venv/test/ready ## Attack every parser, route and writer
	$(PYTEST) tests/hostile tests/editor/test_hostile_requests.py tests/editor/test_openapi.py

nightly: .venv/test/ready .venv/engines/ready ## Run all that is too long for .ci/run
	.ci/run
	$(MAKE) test-oracles
	.venv/engines/bin/python -m pytest -m nightly
	$(if $(COMFYUI_DIR),$(MAKE) test-comfyui)

lint: .venv/test/ready ## Check style and types
	.venv/test/bin/ruff check .
	.venv/test/bin/ruff format --check .
	# The repository's folder may have any name; mypy wants the package's.
	mkdir -p build/mypy && ln -sfn "$(CURDIR)" build/mypy/sd2_clip
	cd build/mypy && MYPYPATH=. "$(CURDIR)/.venv/test/bin/mypy" --config-file "$(CURDIR)/pyproject.toml" -p sd2_clip

format: .venv/test/ready ## Format the code and mend what can be mended
	.venv/test/bin/ruff check --fix .
	.venv/test/bin/ruff format .

bench: .venv/test/ready ## Measure (COMFYUI_DIR and COMFYUI_PYTHON: beside ComfyUI too)
	.venv/test/bin/python -m benchmarks $(BENCH)
	.venv/test/bin/python -m benchmarks.graph

.venv/demo/ready: pyproject.toml
	$(PYTHON) -m venv .venv/demo
	.venv/demo/bin/python $(PIP) "$(TORCH)"
	.venv/demo/bin/python $(PIP) --editable .
	touch $@

.venv/engines/ready: pyproject.toml
	$(PYTHON) -m venv .venv/engines
	.venv/engines/bin/python $(PIP) "pip>=25.1" "$(TORCH)"
	.venv/engines/bin/python $(PIP) --group test --group engines --editable ".[editor,dataset]"
	touch $@

.venv/test/ready: pyproject.toml
	$(PYTHON) -m venv .venv/test
	.venv/test/bin/python $(PIP) "pip>=25.1" "$(TORCH)"
	.venv/test/bin/python $(PIP) --group test --editable ".[editor,dataset]"
	touch $@

clean: ## Delete the environments and what was built
	rm -rf .venv build demo
