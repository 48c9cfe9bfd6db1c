.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed
INSTALLED_TO_RUN := $(VENV)/.installed-to-run
UV_VERSION := 0.13.9

# Variables of `make run`, described in docs/settings.md. HOST is read from the command line only:
# some shells export it as the name of the machine.
HOST = 127.0.0.1
PORT ?= 8080
SERVING_PORT ?= 8500
MODELS ?= models
MODEL ?= breast_cancer
SERVER ?= embedded
ROLLOUT ?= off
ROLLOUT_STEPS ?= shadow,5,25,50
ROLLOUT_BAKE ?= 10m

# Tests and `make run` start many processes, which would each compile the project.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install run quick test lint format lock audit bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv with everything, from the locked requirements

# The lock is complete, and omits requirements that are not needed: see pyproject.toml.
PIP_INSTALL = VIRTUAL_ENV=$(VENV) $(UV) pip install --no-deps --require-hashes --compile-bytecode

$(INSTALLED_TO_RUN): requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.10 to 3.13 is needed (PYTHON=python3.13 chooses another)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot create a virtual environment (on Debian: apt-get install python3-venv)" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(PIP_INSTALL) -r $<
	@cd $(VENV)/lib/python*/site-packages && rm -rf tensorflow/include && find . -name tests -type d -prune -exec rm -r {} +
	@touch $@

$(INSTALLED): requirements/dev.txt $(INSTALLED_TO_RUN)
	@$(PIP_INSTALL) -r $<
	@touch $@

run: $(INSTALLED_TO_RUN) ## train a model if there is none, serve it, open the HTTP endpoint (SERVER=docker: with TensorFlow Serving)
	@exec $(BIN)/python -m launcher --host $(HOST) --port $(PORT) --serving-port $(SERVING_PORT) --models $(MODELS) --model $(MODEL) --server $(SERVER) --rollout $(ROLLOUT) --rollout-steps $(ROLLOUT_STEPS) --rollout-bake $(ROLLOUT_BAKE)

# Each worker runs whole files, in the order of tests/support/lanes.py. Tests often wait for processes, so there are two
# more workers than cores, up to four.
TEST_WORKERS := $(shell expr `getconf _NPROCESSORS_ONLN` + 2)
PYTEST := $(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

quick: install ## run the fast tests
	@exec $(PYTEST) -p no:schemathesis -m "not slow" $(ARGS)

test: install ## run every test this machine can run, and report the others
	@exec $(PYTEST) $(ARGS)

lint: install ## check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: install ## format the code and fix its style
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: install ## measure speed; WRITE=1 replaces the tables in benchmarks/results
	@for name in imports course http_server serving gateway scale rollout monitoring training; do $(BIN)/python -m benchmarks.$$name $(if $(WRITE),--write) || exit 1; done

lock: ## resolve requirements/*.txt from pyproject.toml (uv must be on the PATH)
	@for group in dev run tensorflow training serving client monitoring rollout messages tracing sbom; do \
	  test $$group = dev && held= || held="--constraints requirements/dev.txt"; \
	  test $$group = messages && held="$$held --no-deps"; \
	  uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --group $$group $$held \
	    --custom-compile-command "make lock" --output-file requirements/$$group.txt || exit 1; \
	done

audit: install ## look up known vulnerabilities of the locked packages (needs the network)
	@$(BIN)/pip-audit --disable-pip --require-hashes --requirement requirements/dev.txt

clean: ## remove .venv and caches (models stay)
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
