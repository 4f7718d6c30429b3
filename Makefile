# One virtual environment in .venv; nothing outside this folder is written, caches included.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := demo
SOAK := benchmarks/results/soak.json
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/matplotlib
export PIP_NO_CACHE_DIR := 1
# pytest workers; the kernels and the network use threads of their own.
JOBS ?= 2

.PHONY: help install demo test lint typecheck pytest soak gpu clean

help:
	@echo "make demo    install, then photos -> store -> SAE -> branches, labels, pages, on procedural pictures"
	@echo "make test    install, then ruff, mypy and pytest"
	@echo "make soak    the long tests; their counts go to $(SOAK)"
	@echo "make gpu     the tests of the Triton kernels, compiled, on this machine's GPU"
	@echo "make clean   remove .venv, demo/ and build leftovers"

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "isae needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(STAMP)
	@$(BIN)/isae-store build --images synthetic:1200 --layers mixed4c --out $(DEMO)/store --overwrite
	@$(BIN)/isae-train $(DEMO)/store --layer mixed4c --out $(DEMO)/run --epochs 5 --expansion 1 --overwrite
	@$(BIN)/isae-analyze branches $(DEMO)/run --overwrite
	@$(BIN)/isae-analyze label $(DEMO)/run --overwrite
	@$(BIN)/isae-analyze visualise $(DEMO)/run --visualise 8 --overwrite
	@$(BIN)/isae-analyze report $(DEMO)/run --out $(DEMO)/report --title "isae demo" --overwrite
	@echo
	@echo "store    $(DEMO)/store                     isae-store info $(DEMO)/store"
	@echo "SAE      $(DEMO)/run/sae/mixed4c           metrics in $(DEMO)/run/metrics.jsonl"
	@echo "branches $(DEMO)/run/analysis/branches     summary.json, features.csv, figures"
	@echo "report   $(DEMO)/report/index.html         open it in a browser: it needs no server"

# mypy keeps one core busy for a minute; beside the tests it costs half of that.
test: lint
	@$(MAKE) --no-print-directory --jobs=2 typecheck pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)
	$(BIN)/mypy

pytest: $(STAMP)
	ISAE_TEST_DEVICE=cpu OMP_WAIT_POLICY=PASSIVE \
	  $(BIN)/pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder -m 'not soak'

soak: $(STAMP)
	ISAE_TEST_DEVICE=cpu ISAE_SOAK_REPORT=$(SOAK) $(BIN)/pytest -m soak

gpu: $(STAMP)
	$(BIN)/pytest tests/kernels/triton tests/train/test_fused.py tests/train/test_fused_loop.py

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
