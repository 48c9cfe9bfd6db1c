.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed
UV_VERSION := 0.13.9

# Variables of `make run`, described in docs/settings.md. HOST is read from the command line only:
# some shells export it as the name of the machine.
HOST = 127.0.0.1
PORT ?= 8080
SERVING_PORT ?= 8500
MODELS ?= models
MODEL ?= breast_cancer
SERVER ?= embedded

.PHONY: help install run quick test lint format lock bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv from the locked requirements

$(INSTALLED): requirements/dev.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10 to 3.13 is needed (PYTHON=python3.13 chooses another)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --require-hashes --compile-bytecode -r requirements/dev.txt
	@touch $@

run: install ## train if there is no model, serve it, open the HTTP endpoint (SERVER=docker: with TensorFlow Serving)
	@exec $(BIN)/python -m launcher --host $(HOST) --port $(PORT) --serving-port $(SERVING_PORT) --models $(MODELS) --model $(MODEL) --server $(SERVER)

# Workers take whole files, in the order of tests/support/lanes.py.
PYTEST := $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

quick: install ## run the tests that take about two minutes
	@exec $(PYTEST) -m "not slow" $(ARGS)

test: install ## run every test this machine can run, and say what was left out
	@exec $(PYTEST) $(ARGS)

lint: install ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: install ## put the code into the house style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: install ## measure speed; WRITE=1 replaces the tables in benchmarks/results
	@for name in imports course http_server serving gateway training; do $(BIN)/python -m benchmarks.$$name $(if $(WRITE),--write) || exit 1; done

lock: ## resolve requirements/*.txt again from pyproject.toml (uv must be on the PATH)
	@for group in dev training serving client messages tracing; do \
	  test $$group = dev && held= || held="--constraints requirements/dev.txt"; \
	  test $$group = messages && held="$$held --no-deps"; \
	  uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --group $$group $$held \
	    --custom-compile-command "make lock" --output-file requirements/$$group.txt || exit 1; \
	done

clean: ## remove .venv and caches (models stay)
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
