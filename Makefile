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

.PHONY: help demo test test-fast test-oracles test-transformers4 test-comfyui test-engines hostile fuzz audit nightly lint format bench clean

help: ## List the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|'

demo: .venv/demo/ready ## Encode a first prompt without ComfyUI (CHECKPOINT=file for a real one)
	.venv/demo/bin/sd2-clip demo --output demo $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)")

test: .venv/test/ready lint ## Run the checks: lint, types and all tests but the browser's
	$(IN_PARALLEL) -m "$(ELSEWHERE)"

test-fast: .venv/test/ready ## Run what takes less than a minute: no real sizes, no commands, no browser
	$(IN_PARALLEL) -m "$(ELSEWHERE) and not full_size and not slow and not comfyui"

# open_clip brings torchvision, which must fit torch: PyPI's fits the pinned one. diffusers is compared
# in pictures.
test-oracles: .venv/test/ready ## Compare with heavy peers: open_clip, diffusers
	.venv/test/bin/python $(PIP) open_clip_torch diffusers "$(TORCH)"
	$(PYTEST) -m oracle

test-comfyui: ## Run our nodes in a real ComfyUI: COMFYUI_DIR=folder COMFYUI_PYTHON=python that runs it
	"$(COMFYUI_PYTHON)" -m pytest tests/comfyui $(COMFYUI_TESTS)

# The other major version; .venv/test has the newest.
test-transformers4: .venv/transformers4/ready ## Load what we write for transformers in its version 4
	.venv/transformers4/bin/python -m pytest tests/clip/test_convert_encoder.py tests/sd2/tokens/test_tokenizer_files.py

# Set MOSAIC_PYTHON to a Python with mosaicml-streaming, which cannot be installed beside a current
# torch, for its reader.
test-engines: .venv/engines/ready ## Encode data sets on Ray, on object stores, and for other programs' readers
	.venv/engines/bin/python -m pytest tests/dataset/test_ray_engine.py tests/dataset/test_object_store.py tests/dataset/test_google_storage.py tests/dataset/formats

hostile: .venv/test/ready ## Attack every parser, route and writer, and print what it cost
	$(PYTEST) tests/hostile tests/fuzz tests/headless/test_random_graphs.py \
		tests/editor/test_hostile_requests.py tests/editor/test_openapi.py
	.venv/test/bin/python tests/hostile/cost_table.py

# New inputs are kept in build/fuzz; TARGETS chooses parsers.
SECONDS ?= 60
TARGETS ?= $(notdir $(wildcard tests/fuzz/seeds/*))
fuzz: .venv/fuzz/ready ## Fuzz each parser, guided by coverage, for SECONDS each
	for target in $(TARGETS); do \
		mkdir -p "build/fuzz/$$target" && .venv/fuzz/bin/python tests/fuzz/fuzz.py "$$target" \
			"build/fuzz/$$target" "tests/fuzz/seeds/$$target" -max_total_time=$(SECONDS) -timeout=20 \
			-rss_limit_mb=3000 -max_len=20000 -artifact_prefix="build/fuzz/$$target-" || exit 1; \
	done

audit: .venv/test/ready ## Look for known vulnerabilities in what we depend on (needs the network)
	.venv/test/bin/python $(PIP) pip-audit
	.venv/test/bin/python -m pip_audit --skip-editable

nightly: .venv/test/ready .venv/engines/ready ## Run all that is too long for .ci/run
	.ci/run
	$(MAKE) test-oracles
	$(MAKE) test-transformers4
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

.venv/fuzz/ready: pyproject.toml
	$(PYTHON) -m venv .venv/fuzz
	.venv/fuzz/bin/python $(PIP) "pip>=25.1" "$(TORCH)"
	.venv/fuzz/bin/python $(PIP) --group fuzz --editable ".[editor,dataset]"
	touch $@

.venv/test/ready: pyproject.toml
	$(PYTHON) -m venv .venv/test
	.venv/test/bin/python $(PIP) "pip>=25.1" "$(TORCH)"
	.venv/test/bin/python $(PIP) --group test --editable ".[editor,dataset]"
	touch $@

.venv/transformers4/ready: pyproject.toml
	$(PYTHON) -m venv .venv/transformers4
	.venv/transformers4/bin/python $(PIP) "pip>=25.1" "$(TORCH)"
	.venv/transformers4/bin/python $(PIP) --group test --editable . "transformers==4.57.*"
	touch $@

clean: ## Delete the environments and what was built
	rm -rf .venv build demo
