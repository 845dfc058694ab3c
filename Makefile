# Each target is the only command needed on a machine with git, make, a C++ compiler and Python 3.11 or newer with venv.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo serve test check bench format openapi clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: $(VENV)/installed ## Train a family of small models, merge them, serve them, swap an adapter under load
	$(BIN)/graft demo

serve: $(VENV)/installed ## Start the server on http://127.0.0.1:8000
	$(BIN)/graft serve

test: $(VENV)/installed-dev ## Run the tests
	$(BIN)/python -m pytest -q

check: $(VENV)/installed-dev ## Lint, formatting, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tests benchmarks
	$(BIN)/lint-imports

bench: $(VENV)/installed-dev ## Run the benchmarks
	$(BIN)/python -m benchmarks

format: $(VENV)/installed-dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: $(VENV)/installed ## Rewrite docs/openapi.json from the routes
	$(BIN)/python -m graftwork.api.application.openapi docs/openapi.json

clean: ## Remove the virtual environment and everything built
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info kernels/*.so .mypy_cache .ruff_cache .pytest_cache

NATIVE := $(wildcard kernels/*.cpp kernels/*.h kernels/*/*.cpp kernels/*/*.h)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/installed: $(VENV)/bin/python pyproject.toml setup.py $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
