# What a new user needs is Python 3.11 or later, make and git; every target sets up the rest by itself.
PYTHON ?= python3
# Whole files side by side: most of a run is waiting for real servers and processes.
PYTEST ?= -n 2 --dist loadfile
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(BIN)/uv
LOCKED := --python $(BIN)/python --constraints constraints.txt --build-constraints constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test bench chaos check lint types imports lock assets messages screenshots clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo assets ## a simulated workshop on http://127.0.0.1:8000
	@$(BIN)/epip-demo $(DEMO)

test: check ## set up everything, then lint, types, import rules and the whole suite
	@$(BIN)/pytest $(PYTEST)

bench: $(VENV)/.dev assets ## measure the figures; prints a table and writes build/bench.json
	@$(BIN)/python tests/set_up.py
	@$(BIN)/python -m tests.bench $(BENCH)

# For example: make chaos KILLS=50 SEED=7 STORE=influx BROKER=mosquitto
KILLS ?= 200
SEED ?= 1
STORE ?= duckdb
BROKER ?= nats
chaos: $(VENV)/.dev assets ## kill -9 on every part, cut links, full disks; compares what was committed with what is stored
	@$(BIN)/python tests/set_up.py
	@$(BIN)/python -m tests.chaos --kills $(KILLS) --seed $(SEED) --store $(STORE) --broker $(BROKER) $(CHAOS)

check: $(VENV)/.dev assets
	@$(BIN)/python tests/set_up.py
	@$(MAKE) --no-print-directory lint types imports

lint: $(VENV)/.dev ## style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.dev ## pyright (strict on lab_contract and firmware_bridge) and the TypeScript compiler
	@$(BIN)/python tests/set_up.py types

imports: $(VENV)/.dev ## who may import whom
	@$(BIN)/lint-imports --no-cache

assets: ## web assets and message catalogues; does nothing where nothing changed
	@if [ -x $(BIN)/python ]; then $(BIN)/python hub/web/build_assets.py; fi

messages: $(VENV)/.dev ## extract the texts of pages into the catalogues
	@$(BIN)/python -m hub.web.catalogues

screenshots: check ## the README's pictures, taken from the demo by its browser test
	@EPIP_PICTURES=1 $(BIN)/pytest -q tests/browser/test_demo.py

lock: $(VENV)/.dev ## renew constraints.txt
	@$(UV) pip compile -q --universal --generate-hashes --all-extras --python-version 3.11 --no-emit-index-url \
	  --no-header --upgrade pyproject.toml -o constraints.txt

clean: ## remove what was built, not the data
	@rm -rf $(VENV) build dist hub/web/static/dist hub/web/assets/node_modules tests/node/node_modules

$(UV): constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; give a newer one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	  apt-get install -y -qq python3-venv && $(PYTHON) -m venv --clear $(VENV); } || \
	  { echo "make: '$(PYTHON) -m venv' does not work here; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@awk '/^[a-z]/{keep=/^uv==/} keep' constraints.txt > $(VENV)/uv.txt
	@$(BIN)/python -m pip install -q --require-hashes -r $(VENV)/uv.txt
	@touch $@

$(VENV)/.demo: $(UV) pyproject.toml
	@$(UV) pip install -q --compile-bytecode $(LOCKED) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(UV) pyproject.toml
	@$(UV) pip install -q --compile-bytecode $(LOCKED) -e '.[dev]'
	@touch $@ $(VENV)/.demo
