# Everything a newcomer runs. `make help` lists it; each target sets up .venv by itself, once.

PYTHON ?=
PORT ?= 8888
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
BENCH_ARGS ?=
LAB_ARGS ?=
FUZZ_SECONDS ?= 600
FAULT_SOAK_SECONDS ?= 3600
CONFORMANCE ?= ../shared/conformance
CONFORMANCE_ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
LABEXTENSION := jupyter_tfserve/labextension/package.json
LABEXTENSION_SOURCES := $(wildcard labextension/*.json labextension/yarn.lock labextension/schema/* \
  labextension/style/* labextension/src/* labextension/src/*/*)
DOCS_INSTALLED := .venv/.installed-docs
FUZZ_INSTALLED := .venv/.installed-fuzz
BENCH_INSTALLED := .bench-venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo lab labextension test browser hub conformance faults fuzz lint format bench docs clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(INSTALLED) ## create .venv and install into it (the other targets do it by themselves)

$(INSTALLED): pyproject.toml tools/setup $(wildcard jupyter_tfserve/etc/*/*.json)
	@PYTHON="$(PYTHON)" tools/setup '.[test]'
	@touch $@

# The first bundle is made by the installation, from the same sources.
$(LABEXTENSION): $(LABEXTENSION_SOURCES) tools/labextension | $(INSTALLED)
	@tools/labextension
	@touch $@

labextension: $(LABEXTENSION) ## bundle the JupyterLab sidebar, where a source is newer than the bundle

$(DOCS_INSTALLED): $(INSTALLED)
	@tools/setup '.[docs]'
	@touch $@

$(FUZZ_INSTALLED): $(INSTALLED)
	@tools/setup '.[fuzz]'
	@touch $@

demo: $(INSTALLED) ## train, serve, predict over REST and gRPC, replace the version under load: the quickstart, executed
	@$(BIN)/python notebooks/demo.py

lab: $(LABEXTENSION) ## open the quickstart in JupyterLab (PORT=8888)
	@$(BIN)/jupyter lab --port=$(PORT) --ServerApp.root_dir=notebooks --LabApp.default_url=/lab/tree/quickstart.ipynb \
	  $$([ "$$(id -u)" = 0 ] && echo --allow-root) \
	  $$([ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ] || echo --no-browser) \
	  $(LAB_ARGS)

test: lint $(LABEXTENSION) ## lint, then the whole suite (PYTEST_ARGS='-k store' for a part of it)
	@cd labextension && export PATH="$(CURDIR)/$(BIN):$$PATH" && jlpm format:check && jlpm test
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

browser: $(LABEXTENSION) ## JupyterLab and Notebook 7 in a real Chromium; pictures in build/browser
	@$(BIN)/python -m pytest tests/browser $(PYTEST_ARGS)

hub: $(INSTALLED) ## a real JupyterHub with two users: one shares, the other predicts, and reaches nothing else
	@$(BIN)/python -m pytest tests/hub $(PYTEST_ARGS)

conformance: $(INSTALLED) ## the wire conformance suite (CONFORMANCE=its folder): direct, with workers, through Jupyter
	@$(BIN)/python tools/conformance.py $(CONFORMANCE) $(CONFORMANCE_ARGS)

faults: $(INSTALLED) ## kills, hangs, crashes, disks, clocks, ports, power cuts under load, an hour of switches; writes the figures of docs/reliability.md
	@FAULT_LONG=1 REGISTRATIONS=200 FAULT_SOAK_SECONDS=$(FAULT_SOAK_SECONDS) FAULT_FIGURES=docs/reliability_figures.md \
	  $(BIN)/python -m pytest -s tests/faults

fuzz: $(FUZZ_INSTALLED) ## generated and hostile requests, then coverage-guided fuzzing (FUZZ_SECONDS=600 each)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -s tests/fuzz $(PYTEST_ARGS)
	@$(BIN)/python tests/fuzz/coverage_guided.py $(FUZZ_SECONDS)

lint: $(INSTALLED) ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(INSTALLED) ## let ruff put the sources in order
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

$(BENCH_INSTALLED): $(INSTALLED) benchmarks/setup benchmarks/requirements.txt
	@benchmarks/setup
	@touch $@

bench: $(BENCH_INSTALLED) ## speed beside other servers: see benchmarks/README.md (BENCH_ARGS=--quick for a first look)
	@.bench-venv/bin/python -m benchmarks $(BENCH_ARGS)

docs: $(DOCS_INSTALLED) ## the documentation, into docs/_build/html
	@$(BIN)/python docs/flags_page.py
	@$(BIN)/python docs/picture.py
	@$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean: ## remove what was built; .venv and .bench-venv stay
	rm -rf build dist docs/_build .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -not -path './.*venv/*' -prune -exec rm -rf {} +
