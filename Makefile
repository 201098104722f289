# What a user and a contributor need; `make` alone lists it.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
# Processes that tests run in, side by side.
JOBS ?= 2

BIN := $(VENV)/bin
# Where packages come from is pip's own setting (its configuration, or its variables in the environment).
# --no-build-isolation: setuptools is in the environment already, so nothing is fetched to build with.
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
USE := $(VENV)/.stamp-use
DEV := $(VENV)/.stamp-dev

.DEFAULT_GOAL := help
.PHONY: help demo install test test-long check bench clean

help:  ## List what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(USE)  ## Install if needed, then run a whole federation on synthetic hospitals.
	$(BIN)/wardround demo

install: $(DEV)  ## Install the product and what its tests need into .venv.

test: $(DEV)  ## Run all tests but the long ones.
	$(PYTEST) -m "not long" $(ARGS)

test-long: $(DEV)  ## Run the tests that take minutes each.
	$(PYTEST) -m long --timeout 3600 $(ARGS)

check: $(DEV)  ## Format, lint, types, floors.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)  ## Measure against a plain PyTorch loop, and a federation; `make bench ARGS=federation` for a part.
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ARGS)

clean:  ## Remove the environment, caches and build outputs; recorded trainings stay.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "WardRound needs Python 3.11 or newer, and '$(PYTHON)' is not. Name one: make PYTHON=/path/to/python3.11"; \
		exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON)' cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(USE): pyproject.toml constraints.txt | $(VENV)/pyvenv.cfg
	@echo "Installing WardRound into $(VENV); the first time takes some minutes."
	$(PIP_INSTALL) setuptools
	$(PIP_INSTALL) --no-build-isolation -e '.[examples]'
	$(BIN)/python -m flows.embedded_prefect --prepare
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(USE)
	$(PIP_INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@
