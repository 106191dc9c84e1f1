# `make help` lists the targets. PYTHON=python3.12 picks another interpreter; PYTEST_ARGS="-k chat" narrows the tests.
PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

define CHECK_PYTHON
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"Cleave needs Python 3.11 to 3.13, and {sys.executable} is {sys.version.split()[0]}. "
             "Name another: make PYTHON=python3.12 ...")
endef
export CHECK_PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

demo: $(VENV)/.installed ## plan DeepSeek-V3.2 for coding traffic on 128 B200 GPUs
	@$(BIN)/cleave plan examples/coding.yaml

test: $(VENV)/.installed-test ## run the test suite on two processes
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.installed-test ## style, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-test ## put every file into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed ## time and memory of the benchmark cases
	$(BIN)/python benchmarks/run.py

clean: ## remove everything that make has made, .venv included
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The virtual environment is made inside the recipes of the stamps, so that a stamp never outlives it.
define MAKE_VENV
@test -x $(BIN)/python || { \
  command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) on the path; name another: make PYTHON=python3.12 ..."; exit 1; }; \
  $(PYTHON) -c "$$CHECK_PYTHON" && echo "creating $(VENV)" && $(PYTHON) -m venv --clear $(VENV); }
endef

$(VENV)/.installed: pyproject.toml
	$(MAKE_VENV)
	@echo "installing cleave"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml
	$(MAKE_VENV)
	@echo "installing cleave with what the tests need"
	@$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.installed
