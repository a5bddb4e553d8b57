# Targets for people and for CI; `make help` lists them.
PYTHON ?= python3
TORCH_ARGS ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.DEFAULT_GOAL := help
.PHONY: help run ui test check bench bench-instability bench-search clean

help:  ## List all targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

run: $(VENV)/installed  ## Train the default task; ARGS="optimizer.lr=0.01" overrides the configuration.
	@$(BIN)/python -m runner $(ARGS)

ui: $(VENV)/installed  ## Open the MLflow UI at the chart comparison of the newest experiment.
	@$(BIN)/python -m runner mode=ui $(ARGS)

test: $(VENV)/installed-dev  ## Run the tests; ARGS="-m slow" selects others.
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/installed-dev  ## Check format, lint and types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(VENV)/installed-bench  ## Run the benchmarks under experiments/; ARGS="--steps 2000 --repeats 3" is shorter.
	@for file in experiments/*/benchmark.py; do echo "== $$file"; $(BIN)/python $$file $(ARGS) || exit 1; done

bench-instability: $(VENV)/installed  ## Make runs with known faults and score what is said of them; ARGS=--small is short.
	@$(BIN)/python experiments/instability_benchmark/generate.py $(ARGS)
	@$(BIN)/python experiments/instability_benchmark/score.py $(ARGS)

bench-search: $(VENV)/installed-bench  ## Measure the truth of ten cells and what search methods pick there: hours.
	@$(BIN)/python experiments/finding_the_lr/truth.py
	@$(BIN)/python experiments/finding_the_lr/methods.py
	@$(BIN)/python experiments/finding_the_lr/table.py

clean:  ## Remove the environment and caches; runs/ stays.
	rm -rf $(VENV) dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find runner tests experiments -name __pycache__ -type d -exec rm -rf {} +

# torch goes first: any later resolution may pick a build of several gigabytes
$(VENV)/torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	@touch $@
