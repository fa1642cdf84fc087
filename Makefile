# From a bare checkout to a running demo or a tested change: needs make and python3 >= 3.11, brings the rest itself.

PYTHON ?= python3.13 python3.12 python3.11 python3# candidates, the first that works is taken; or PYTHON=/path/to/one
JOBS ?= 4# test files run side by side: they mostly wait for processes, so a few more than there are cores do well
ARGS ?=# more arguments for `make demo` and `make test`

VENV := .venv
TORCH := .venv-torch
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help venv demo test test-torch test-stack lint servers bench clean
.DELETE_ON_ERROR:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

venv: $(VENV)/.dev  ## install into .venv, editable, with everything that development needs

demo: $(VENV)/.run  ## a leaking RAG beside a sidecar: alert, cleanup, freed bytes, in under a minute
	@$(BIN)/rag-sidecar demo $(ARGS)

test: $(VENV)/.dev servers  ## lint, types and every test, against real servers; e.g. ARGS="-k rules"
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-torch: $(TORCH)/.made  ## the agent beside a real model; fetches torch into .venv-torch, 1.5 GB, and takes some minutes
	@$(TORCH)/bin/python -m pytest tests/torch -v -rP $(ARGS)

test-stack: $(VENV)/.dev  ## the Compose file on a container engine, all in namespaces of its own; root, some minutes
	@PYTHONPATH=tests $(BIN)/python -m stack.packages
	@STACK=1 unshare --net --mount --pid --fork --kill-child --mount-proc $(BIN)/python -m pytest tests/stack -v $(ARGS)

lint: $(VENV)/.dev  ## style and types alone
	@$(BIN)/ruff check .
	@$(BIN)/mypy

servers: $(BIN)/python  ## fetch Prometheus, Alertmanager, Chromium and newer Pythons for the tests, installing none
	@$(BIN)/python tests/servers.py

bench: $(VENV)/.dev  ## measure what the documentation claims, on this machine
	@set -e; for file in benchmarks/latency.py benchmarks/load.py benchmarks/cost.py benchmarks/growth.py benchmarks/rules.py benchmarks/redelivery.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean:  ## remove what these targets made
	rm -rf $(VENV) $(TORCH) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A name may be there without working (pyenv's shims), and Debian ships venv without the pip that it needs.
$(BIN)/python:
	@for python in $(PYTHON); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  found="$$python"; \
	  "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	  echo "Making $(VENV) with $$("$$python" --version)"; \
	  exec "$$python" -m venv $(VENV); \
	done; \
	if [ -n "$$found" ]; then \
	  echo "$$found cannot make virtual environments. Debian, Ubuntu: apt-get install python3-venv" >&2; \
	else \
	  echo "No Python 3.11 or newer works here; tried: $(PYTHON). Install one, or name it: make PYTHON=/path/to/it" >&2; \
	fi; exit 1

# Stamps: installed once, and again when pyproject.toml changes.
$(VENV)/.run: pyproject.toml | $(BIN)/python
	@echo "Installing rag-sidecar into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

# The group is read here because `pip install --group` is younger than the pip that comes with many a Python.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing rag-sidecar and its development tools into $(VENV)"
	@$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['dev'], sep='\n')" > $(VENV)/dev.txt
	@$(PIP) install --editable . --requirement $(VENV)/dev.txt
	@touch $@ $(VENV)/.run

# PyPI's torch for Linux brings what a GPU needs, gigabytes of it: PIP_EXTRA_INDEX_URL may name PyTorch's CPU builds.
$(TORCH)/.made: pyproject.toml | $(BIN)/python
	@test -x $(TORCH)/bin/python || $(BIN)/python -m venv $(TORCH)
	@echo "Installing rag-sidecar, torch and a model into $(TORCH)"
	@$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['torch'], sep='\n')" > $(TORCH)/torch.txt
	@$(TORCH)/bin/python -m pip --disable-pip-version-check install --editable . --requirement $(TORCH)/torch.txt
	@touch $@
